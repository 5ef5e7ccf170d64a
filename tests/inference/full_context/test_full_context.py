import weakref
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from parts import BothWays, Fading, MeanContext, decoder_inputs, small_encoder, small_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from xt.errors import ModelError, OutputError
from xt.geometry.grid import RegionGrid, TokenLayout
from xt.inference import full_context
from xt.inference.feature_store import FeatureStore
from xt.inference.full_context import context_memory, mix_stored, scratch_bytes
from xt.models.context.base import ContextEncoder
from xt.models.context.hyper import Hyper
from xt.models.context.identity import Identity
from xt.models.context.mamba import Mamba
from xt.models.context.transformer_xl import TransformerXL
from xt.models.decoders.pooled import Pooled
from xt.models.xt import XT

CHANNELS, STRIDE, SIZE = 32, 32, 64  # of small_model: 2 × 2 tokens in a region
CONTEXTS = {
    **{f"Mamba {depth}": lambda depth=depth: Mamba(16, depth) for depth in (1, 2, 3, 4)},
    "TransformerXL": lambda: TransformerXL(16, chunk_regions=3, head_dim=8),
    "Fading": lambda: Fading(16),
    "BothWays": lambda: BothWays(16),
    "Identity": lambda: Identity(16),
    "Hyper": lambda: Hyper(16, head_dim=8, block_size=8, sample_size=8, min_seq_len=32),
    "MeanContext": lambda: MeanContext(16),
}


def model_with(context: ContextEncoder, dtype: torch.dtype = torch.float32) -> XT:
    model = small_model(context=context).eval()
    # Not a projection that hides what the context says.
    torch.nn.init.normal_(model.context.output_proj.weight, std=0.3)
    return model.to(dtype)


def stores(folder: Path, features: Tensor, grid: RegionGrid, exists: tuple[bool, ...] | None) -> list[FeatureStore]:
    """The features of all regions that exist, and an empty store of the same shape."""
    layout = grid.layout(STRIDE, exists)
    made = [FeatureStore.create(folder / name, CHANNELS, layout, features.dtype) for name in ("features", "out")]
    for index in range(grid.num_regions):
        if exists is None or exists[index]:
            made[0].write(index, features[0][(..., *place(grid, index))])
    return made


def place(grid: RegionGrid, index: int) -> tuple[slice, slice]:
    window = grid.window(index)
    row, col, side = window.row // STRIDE, window.col // STRIDE, SIZE // STRIDE
    return slice(row, row + side), slice(col, col + side)


def random_features(grid: RegionGrid, exists: tuple[bool, ...] | None, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(grid.num_regions)
    shape = (1, CHANNELS, grid.padded_height // STRIDE, grid.padded_width // STRIDE)
    features = torch.randn(shape, generator=generator).to(dtype)
    for index, there in enumerate(exists or ()):
        features[(..., *place(grid, index))] *= there
    return features


def check(
    model: XT, grid: RegionGrid, exists: tuple[bool, ...] | None, folder: Path, tolerance: float = 1e-5
) -> list[tuple[int, int]]:
    """Mix on disk and in memory; return what the progress was."""
    features = random_features(grid, exists, next(model.parameters()).dtype)
    told: list[tuple[int, int]] = []
    before, out = stores(folder, features, grid, exists)
    with before, out, torch.no_grad():
        mix_stored(model, before, exists, grid, folder, out, lambda *count: told.append(count))
        want = model.mix_features(features, grid, None if exists is None else [exists])[0]
        got = torch.cat([out.read_row(row) for row in range(grid.rows)], 1)
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)
    assert sorted(path.name for path in folder.iterdir()) == ["features", "out"]
    return told


@st.composite
def scenes(draw: st.DrawFn) -> tuple[RegionGrid, tuple[bool, ...] | None]:
    height, width = draw(st.integers(1, 5)) * SIZE, draw(st.integers(1, 5)) * SIZE
    origin = draw(st.sampled_from([(0, 0), (96, 320)]))
    grid = RegionGrid(height - draw(st.integers(0, SIZE - 1)), width - draw(st.integers(0, SIZE - 1)), SIZE, origin)
    flags = st.lists(st.booleans(), min_size=grid.num_regions, max_size=grid.num_regions).map(tuple)
    rows = st.lists(st.booleans(), min_size=grid.rows, max_size=grid.rows).map(
        lambda there: tuple(row for row in there for _ in range(grid.cols))
    )
    one = st.integers(0, grid.num_regions - 1).map(lambda only: tuple(i == only for i in range(grid.num_regions)))
    return grid, draw(st.none() | flags | rows | one)


@pytest.mark.parametrize("name", CONTEXTS)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scene=scenes(), piece=st.sampled_from([1, 3, 10, 2048]))
def test_equals_the_context_in_memory(
    name: str, scene: tuple, piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(full_context, "PIECE_TOKENS", piece)
    grid, exists = scene
    told = check(model_with(CONTEXTS[name]()), grid, exists, tmp_path)
    count = grid.num_regions if exists is None else sum(exists)
    assert [done for done, _ in told] == list(dict.fromkeys(done for done, _ in told))
    assert told[-1:] == ([(told[0][1],) * 2] if count else [])
    assert not count or told[0][1] % count == 0


@pytest.mark.parametrize("name", CONTEXTS)
def test_equals_the_context_in_memory_exactly(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(full_context, "PIECE_TOKENS", 7)
    exists = (*[True] * 5, False, *[False] * 6, True, False, True, True, False, True)
    check(model_with(CONTEXTS[name](), torch.float64), RegionGrid(190, 383, SIZE), exists, tmp_path, 1e-10)


@pytest.mark.parametrize(
    "exists",
    [
        (False,) * 11 + (True,),
        (False,) * 12,
        (True,) * 12,
        (False,) * 4 + (True,) * 4 + (False,) * 4,
        (True, False, False, True) + (False,) * 4 + (False, True, True, False),
    ],
)
@pytest.mark.parametrize("name", CONTEXTS)
def test_empty_regions_and_rows_are_not_in_the_sequence(name: str, exists: tuple[bool, ...], tmp_path: Path):
    check(model_with(CONTEXTS[name]()), RegionGrid(180, 250, SIZE), exists, tmp_path)


def test_a_recurrent_context_gets_runs_of_regions_in_the_smallest_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    context, given = Fading(16), []
    context.segment_regions = 2
    step = context.step
    context.step = lambda tokens, layout, memory: given.append(layout) or step(tokens, layout, memory)
    monkeypatch.setattr(full_context, "PIECE_TOKENS", 1)
    grid = RegionGrid(180, 250, SIZE, (64, 128))
    before, out = stores(tmp_path, random_features(grid, None), grid, None)
    exists = (True, True, False, True, True, False, False, False, False, True, True, True)
    with before, out:
        mix_stored(model_with(context), before, exists, grid, tmp_path, out)
    across = (False, False, False, True, True, False, False, False)
    assert given == [
        TokenLayout(1, 2, 2, origin=(2, 4)),
        TokenLayout(2, 4, 2, across, origin=(2, 4)),
        TokenLayout(1, 2, 2, origin=(6, 6)),
        TokenLayout(1, 1, 2, origin=(6, 10)),
    ]


@pytest.mark.parametrize("name", ["Mamba 2", "TransformerXL", "MeanContext"])
def test_result_may_replace_the_features(name: str, tmp_path: Path):
    model, grid = model_with(CONTEXTS[name]()), RegionGrid(150, 250, SIZE)
    features = random_features(grid, None)
    store, other = stores(tmp_path, features, grid, None)
    with store, other, torch.no_grad():
        mix_stored(model, store, None, grid, tmp_path, store)
        want = model.mix_features(features, grid)[0]
        torch.testing.assert_close(store.read_row(1), want[:, 2:4], rtol=1e-5, atol=1e-5)


def test_halves_on_disk_are_mixed_in_the_type_of_the_model(tmp_path: Path):
    model, grid = model_with(Mamba(16, 2)), RegionGrid(100, 200, SIZE)
    features = random_features(grid, None).half()
    halves, other = stores(tmp_path, features, grid, None)
    with halves, other, FeatureStore.create(tmp_path / "full", CHANNELS, grid.layout(STRIDE)) as out, torch.no_grad():
        mix_stored(model, halves, None, grid, tmp_path, out)
        want = model.mix_features(features.float(), grid)[0]
        torch.testing.assert_close(out.read_row(1), want[:, 2:], rtol=1e-5, atol=1e-5)


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


def test_room_for_tokens_between_passes_is_known_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    layout = RegionGrid(100, 200, SIZE).layout(STRIDE, (True, False) * 4)
    assert [scratch_bytes(model_with(CONTEXTS[name]()), layout) // (16 * 16 * 4) for name in CONTEXTS] == [
        0, 1, 1, 1, 0, 0, 2, 0, 0, 0,
    ]  # fmt: skip


def test_pooled_decoders_and_missing_scratch_are_refused(tmp_path: Path):
    grid = RegionGrid(100, 200, SIZE)
    before, out = stores(tmp_path, random_features(grid, None), grid, None)
    encoder = small_encoder()
    pooled = XT(encoder, MeanContext(16), Pooled(decoder_inputs(encoder)), {"label": 5})
    with before, out:
        with pytest.raises(ModelError, match="mix_stored needs a dense decoder"):
            mix_stored(pooled, before, None, grid, tmp_path, out)
        with pytest.raises(OutputError, match=r"missing/tokens cannot be used: No such file or directory; free space"):
            mix_stored(model_with(Mamba(16)), before, None, grid, tmp_path / "missing", out)
