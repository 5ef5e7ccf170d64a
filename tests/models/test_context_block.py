import pytest
import torch
from parts import Fading, small_model

from xt.errors import ModelError
from xt.geometry.grid import RegionGrid
from xt.models.context.hyper import Hyper
from xt.models.context.transformer_xl import TransformerXL
from xt.models.context_block import sincos_positions

SIDE = 2  # tokens along a region of 64 px at stride 32


def test_positions_of_a_part_are_the_slice_of_the_whole():
    whole = sincos_positions(RegionGrid(320, 256, 64).layout(32), 16).reshape(10, 8, 16)
    part = sincos_positions(RegionGrid(100, 70, 64, (96, 128)).layout(32), 16).reshape(4, 4, 16)
    assert torch.equal(part, whole[3:7, 4:8])


@pytest.mark.parametrize("make", [lambda: Fading(16), lambda: TransformerXL(16, chunk_regions=2, head_dim=8)])
@pytest.mark.parametrize(
    "cuts",
    [
        [(0, 3, 0, 4)],
        [(0, 1, 0, 4), (1, 3, 0, 4)],
        [(0, 2, 0, 4), (2, 3, 0, 2), (2, 3, 2, 4)],
    ],
)
@pytest.mark.parametrize("missing", [(), (1, 2, 4, 7)])
def test_segments_one_after_the_other_get_what_the_whole_gets(make: object, cuts: list, missing: tuple):
    model = small_model(context=make()).eval()
    grid = RegionGrid(180, 250, model.region_size)
    x = torch.randn(2, 2, grid.height, grid.width, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(2, 1, grid.height, grid.width, dtype=torch.bool)
    for region in missing:
        valid[(..., *grid.window(region).slices)] = False
    with torch.no_grad():
        want = model.mix(model.encode(x, valid)).maps[-1]
        got, memory = torch.full_like(want, torch.nan), None
        for top, bottom, left, right in cuts:
            rows, cols = slice(64 * top, 64 * bottom), slice(64 * left, 64 * right)
            part = model.encode(x[..., rows, cols], valid[..., rows, cols], origin=(64 * top, 64 * left))
            layout = part.grid.layout(32, part.exists[0])
            mixed, memory = model.mix_segment(part.maps[-1], layout, memory)
            got[..., SIDE * top : SIDE * bottom, SIDE * left : SIDE * right] = mixed
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_the_memory_of_one_segment_changes_the_next():
    model = small_model(context=Fading(16)).eval()
    layout = RegionGrid(64, 64, 64).layout(32)
    features = torch.randn(1, 32, 2, 2)
    with torch.no_grad():
        first, memory = model.mix_segment(features, layout)
        second, _ = model.mix_segment(features, layout, memory)
    assert (first - second).abs().max() > 1e-3


def test_a_context_without_steps_is_named():
    model = small_model(context=Hyper(16, head_dim=8))
    with pytest.raises(ModelError, match="context Hyper has no step"):
        model.mix_segment(torch.zeros(1, 32, 2, 2), RegionGrid(64, 64, 64).layout(32))
