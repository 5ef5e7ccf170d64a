"""Memory and disk that the context of a whole scene takes, and what is told of them before."""

import errno
import os
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from parts import BothWays
from stored import CHANNELS, CONTEXTS, SIZE, STRIDE, model_with, random_features, stores
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from xt.errors import OutputError
from xt.geometry.grid import RegionGrid
from xt.inference import full_context
from xt.inference.feature_store import FeatureStore
from xt.inference.full_context import context_memory, mix_stored, scratch_bytes
from xt.models.context.base import Pass
from xt.models.context.mamba import Mamba
from xt.models.xt import XT


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that operators made and that are still alive, and the largest of them."""

    def __init__(self):
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.peak = self.largest = 0

    def __torch_dispatch__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        out = func(*args, **(kwargs or {}))
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and (key := x.untyped_storage()._cdata) not in {*given, *self.sizes}:
                self.sizes[key] = x.untyped_storage().nbytes()
                weakref.finalize(x.untyped_storage(), self.sizes.pop, key, None)
                self.largest = max(self.largest, self.sizes[key])
        self.peak = max(self.peak, sum(self.sizes.values()))
        return out


def count(model: XT, rows: int, folder: Path) -> tuple[LiveBytes, int]:
    grid = RegionGrid(rows * SIZE, 20 * SIZE, SIZE)
    before, out = stores(folder, random_features(grid, None), grid, None)
    with before, out, LiveBytes() as live:
        mix_stored(model, before, None, grid, folder, out)
    return live, context_memory(model, grid.layout(STRIDE)) - full_context._ALLOCATOR_BYTES


@pytest.mark.parametrize("name", ["Mamba 4", "BothWays", "TransformerXL", "Fading", "Identity"])
def test_memory_is_of_one_row_of_regions_and_is_known_before(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(full_context, "PIECE_TOKENS", 60)
    # Tensors only, of few channels here; the orders that are kept as arrays would hide them.
    monkeypatch.setattr(full_context, "_INDEX_BYTES", 96)
    model = model_with(CONTEXTS[name]())
    (few, told), (many, told_of_many) = count(model, 2, tmp_path), count(model, 6, tmp_path)
    row = 20 * 4 * CHANNELS * 4
    assert few.largest == many.largest <= 2 * row
    assert many.peak <= 1.1 * few.peak
    assert told == told_of_many
    assert many.peak <= told <= 4 * many.peak


@pytest.mark.parametrize("name", ["Hyper", "MeanContext"])
def test_memory_of_the_whole_sequence_is_known_before(name: str, tmp_path: Path):
    live, told = count(model_with(CONTEXTS[name]()), 6, tmp_path)
    assert 6 * 20 * 4 * 16 * 4 <= live.largest
    assert live.peak <= told <= 8 * live.peak


def test_memory_is_told_of_what_exists_in_its_type_and_width(monkeypatch: pytest.MonkeyPatch):
    for name, value in (("PIECE_TOKENS", 60), ("_INDEX_BYTES", 0), ("_ALLOCATOR_BYTES", 0)):
        monkeypatch.setattr(full_context, name, value)
    row, worked_on = 20 * 4, []  # tokens

    def told(name: str, rows: int, dtype: torch.dtype = torch.float32, cols: int = 20) -> int:
        model = model_with(CONTEXTS[name](), dtype)
        model.context.encoder.working_bytes = lambda tokens: worked_on.append(tokens) or 0
        exists = tuple(index < rows * cols for index in range(6 * cols))
        return context_memory(model, RegionGrid(6 * SIZE, cols * SIZE, SIZE).layout(STRIDE, exists))

    assert told("MeanContext", 6) - told("MeanContext", 2) == 4 * row * 16 * 4
    assert worked_on == [6 * row, 2 * row]
    assert told("Identity", 6) == told("Identity", 2) < told("BothWays", 2)  # whose tokens are wider between passes
    assert worked_on[2:] == [60] * 3
    assert 15 * told("Fading", 1, cols=1) == told("Fading", 1) == told("Fading", 6)
    assert worked_on[5:] == [4, 60, 60]
    for name in ("MeanContext", "Identity", "BothWays", "Fading"):
        assert told(name, 3, torch.float64) == 2 * told(name, 3)


def test_room_for_tokens_between_passes_is_given_back(tmp_path: Path):
    grid, held = RegionGrid(100, 200, SIZE), os.listdir("/proc/self/fd")
    before, out = stores(tmp_path, random_features(grid, None), grid, None)
    with before, out:
        mix_stored(model_with(Mamba(16, 2)), before, None, grid, tmp_path, out)
    assert os.listdir("/proc/self/fd") == held


def test_room_for_tokens_between_passes_is_taken_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    grid = RegionGrid(100, 200, SIZE)
    before, out = stores(tmp_path, random_features(grid, None), grid, None)
    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(FeatureStore, "read", lambda *given: pytest.fail("work was done"))
    with before, out:
        held = os.listdir("/proc/self/fd")
        with pytest.raises(OutputError, match="tokens cannot be used: No space left on device"):
            mix_stored(model_with(Mamba(16, 2)), before, None, grid, tmp_path, out)
        assert os.listdir("/proc/self/fd") == held


def test_room_for_tokens_between_passes_is_known_before():
    layout = RegionGrid(100, 200, SIZE).layout(STRIDE, (True, False) * 4)
    assert [scratch_bytes(model_with(CONTEXTS[name]()), layout) // (16 * 16 * 4) for name in CONTEXTS] == [
        0, 1, 1, 1, 0, 0, 2, 0, 0, 0,
    ]  # fmt: skip
    assert scratch_bytes(model_with(BothWays(16), torch.float64), layout) == 16 * 32 * 8
    context = BothWays(16)
    step = context.passes()[0].step
    for widths in ([16, 48, 32], [48, 16, 32]):  # the widest needs it, between whichever sweeps
        passes = [Pass(step, reverse=number % 2 == 1, channels=width) for number, width in enumerate(widths)]
        context.passes = lambda passes=passes: [*passes, Pass(step, reverse=True)]
        assert scratch_bytes(model_with(context), layout) == 16 * 48 * 4
