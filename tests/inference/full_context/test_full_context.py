from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from parts import Fading, MeanContext, decoder_inputs, fade, small_encoder
from stored import CHANNELS, CONTEXTS, SIZE, STRIDE, model_with, random_features, stores
from torch import Tensor

from xt.errors import ModelError, OutputError
from xt.geometry.grid import RegionGrid, TokenLayout
from xt.inference import full_context
from xt.inference.feature_store import FeatureStore
from xt.inference.full_context import mix_stored
from xt.models.context.base import Memory, Pass, SequentialContextEncoder
from xt.models.context.mamba import Mamba
from xt.models.decoders.pooled import Pooled
from xt.models.xt import XT


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
@settings(max_examples=8, suppress_health_check=list(HealthCheck))
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


class Widening(SequentialContextEncoder):
    """Two passes down the scene give wider and wider tokens, one up takes them all."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim, self.given = dim, []

    def passes(self) -> list[Pass]:
        wider = [Pass(self.widen, channels=2 * self.dim), Pass(self.widen, channels=3 * self.dim)]
        return [*wider, Pass(self.narrow, reverse=True)]

    def widen(self, tokens: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        self.given.append(tokens.shape[1])
        heard, memory = fade(tokens, memory)
        return torch.cat([tokens, heard[..., -self.dim :]], -1), memory

    def narrow(self, tokens: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        heard, memory = fade(tokens.flip(1), memory)
        first, second, third = heard.flip(1).chunk(3, -1)
        return first + 2 * second - third, memory


def test_tokens_between_passes_are_as_wide_as_the_last_made_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(full_context, "PIECE_TOKENS", 7)
    context = Widening(16)
    check(model_with(context), RegionGrid(190, 383, SIZE), None, tmp_path, 1e-4)
    *pieces, whole, again = context.given  # on disk, then in memory
    assert max(pieces) == 7
    assert whole == again == 3 * 6 * 4


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
