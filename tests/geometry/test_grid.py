from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from xt.errors import GeometryError
from xt.geometry import order
from xt.geometry.blend import axis_weights, tile_starts
from xt.geometry.grid import RegionGrid, TokenLayout, Window
from xt.models.tokenization import crop_padded, cut, stitch, to_map, to_tokens

sizes = st.integers(1, 40)
grids = st.builds(RegionGrid, sizes, sizes, st.integers(1, 17))


@st.composite
def layouts(draw: st.DrawFn) -> TokenLayout:
    rows, cols = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    exists = draw(st.none() | st.tuples(*[st.booleans()] * (rows * cols)))
    return TokenLayout(rows, cols, draw(st.integers(1, 3)), exists, draw(st.integers(0, 2)))


@given(st.integers(0, 30), st.integers(0, 30), sizes, sizes, st.integers(1, 9))
def test_coarser_cells_are_those_with_a_pixel(row: int, col: int, height: int, width: int, factor: int):
    window, pixels = Window(row, col, height, width), np.zeros((100, 100), bool)
    pixels[window.slices] = True
    rows, cols = np.nonzero(pixels)
    coarse = window.coarsened(factor)
    assert set(range(coarse.row, coarse.row_stop)) == set(rows // factor)
    assert set(range(coarse.col, coarse.col_stop)) == set(cols // factor)
    fine = coarse.refined(factor)
    assert fine.intersect(window) == window
    assert fine.coarsened(factor) == coarse


@given(grids)
def test_every_pixel_is_in_exactly_one_region(grid: RegionGrid):
    count = np.zeros((grid.height, grid.width), int)
    for index in range(grid.num_regions):
        count[grid.clipped(index).slices] += 1
        assert grid.window(index).height == grid.window(index).width == grid.region_size
    assert (count == 1).all()


@given(grids)
def test_cut_then_stitch_is_the_identity_and_zero_padded(grid: RegionGrid):
    image = torch.rand(2, 1, grid.height, grid.width) + 1
    regions = cut(image, grid)
    whole = stitch(regions, grid)
    assert torch.equal(whole[..., : grid.height, : grid.width], image)
    assert whole.sum() == pytest.approx(float(image.sum()), rel=1e-4)
    for index, window in enumerate(grid.windows()):
        assert torch.equal(regions[index], crop_padded(image[:1], window)[0])


@given(layouts())
def test_orders_are_permutations_and_keep_extra_tokens_last(layout: TokenLayout):
    permutation = order.region_major(layout)
    assert sorted(permutation.tolist()) == list(range(layout.num_tokens))
    tokens = np.arange(layout.num_tokens)
    assert np.array_equal(tokens[permutation][order.inverse(permutation)], tokens)
    placed = layout.num_tokens - layout.num_extra
    assert permutation[placed:].tolist() == tokens[placed:].tolist()
    regions = order.region_indices(layout)[permutation[:placed]]
    assert (np.diff(regions) >= 0).all()
    assert (np.diff(permutation[:placed])[np.diff(regions) == 0] > 0).all()  # raster order inside each


@pytest.mark.parametrize(
    "of", [order.positions, order.map_indices, order.region_indices, order.region_major, order.column_major]
)
def test_orders_that_callers_share_cannot_be_changed(of: order.Order):
    with pytest.raises(ValueError, match="read-only"):
        of(TokenLayout(1, 2, 2))[0] = 0


@given(layouts(), st.integers(0, 50), st.integers(0, 50))
def test_tokens_of_a_part_have_their_places_in_the_scene(layout: TokenLayout, row: int, col: int):
    side, exists = layout.side, layout.exists or (True,) * layout.num_regions
    want = [
        [row + i, col + j]
        for i in range(layout.height)
        for j in range(layout.width)
        if exists[i // side * layout.region_cols + j // side]
    ]
    part = replace(layout, origin=(row, col))
    assert order.scene_positions(part).tolist() == want
    assert np.array_equal(order.region_indices(part), order.region_indices(layout))
    assert np.array_equal(order.map_indices(part), order.map_indices(layout))


@given(layouts(), st.data())
def test_a_segment_is_the_smallest_layout_of_its_regions(layout: TokenLayout, data: st.DataObject):
    layout = replace(layout, origin=(5, 7))
    existing = sorted(set(order.region_indices(layout).tolist()))
    if not existing:
        return
    first = data.draw(st.integers(0, len(existing) - 1))
    regions = existing[first : data.draw(st.integers(first + 1, len(existing)))]
    part = layout.segment(regions)
    here = np.isin(order.region_indices(layout), regions)
    assert np.array_equal(order.scene_positions(part), order.scene_positions(layout)[here])
    assert part.num_tokens == here.sum()
    rows = {region // layout.region_cols for region in regions}
    assert part.region_rows == max(rows) - min(rows) + 1
    assert part.region_cols == (layout.region_cols if len(rows) > 1 else regions[-1] - regions[0] + 1)


@given(grids, st.integers(0, 9), st.integers(0, 9))
def test_a_part_hands_its_origin_on_in_tokens(grid: RegionGrid, row: int, col: int):
    stride, size = 4, 4 * grid.region_size
    part = RegionGrid(grid.height, grid.width, size, (row * stride, col * stride))
    assert part.layout(stride).origin == (row, col)
    assert part.window(0) == Window(0, 0, size, size)
    assert part.whole == Window(0, 0, grid.height, grid.width)


@given(layouts())
def test_tokens_and_maps_are_inverse_where_regions_exist(layout: TokenLayout):
    maps = torch.rand(2, 3, layout.height, layout.width) + 1
    tokens = to_tokens(maps, layout)
    assert tokens.shape[1] == layout.num_tokens - layout.num_extra
    back = to_map(tokens, layout)
    there = back != 0
    assert torch.equal(back[there], maps[there])
    assert there.float().mean() == pytest.approx(layout.num_existing / layout.num_regions)


@given(st.integers(1, 90), st.integers(2, 30), st.data(), st.sampled_from(["cosine", "linear", "none"]))
def test_tiles_cover_and_weights_sum_to_one(length: int, tile: int, data: st.DataObject, blend: str):
    overlap = data.draw(st.integers(0, tile - 1))
    starts = tile_starts(length, tile, overlap)
    total = np.zeros(length)
    for start, weight in zip(starts, axis_weights(starts, tile, length, blend), strict=True):
        assert (weight >= 0).all()
        total[start : start + len(weight)] += weight
    np.testing.assert_allclose(total, 1, atol=1e-5)


def test_two_tiles_fade_as_they_are_named():
    def of_second(blend: str) -> np.ndarray:
        return axis_weights([0, 4], 8, 12, blend)[1][:4]

    np.testing.assert_allclose(of_second("linear"), [0.125, 0.375, 0.625, 0.875], atol=1e-6)
    np.testing.assert_allclose(
        of_second("cosine"), np.sin(np.pi / 2 * np.array([0.125, 0.375, 0.625, 0.875])) ** 2, atol=1e-6
    )
    np.testing.assert_array_equal(of_second("none"), [0, 0, 1, 1])


@pytest.mark.parametrize("place", [-9, -5, 6, 9])
def test_a_window_beside_the_image_has_no_pixels(place: int):
    for part in (Window(place, 1, 3, 2).clip(6, 6), Window(1, place, 2, 3).clip(6, 6)):
        assert min(part.height, part.width) == 0
        assert Window(0, 0, 6, 6).intersect(part) == part


def test_errors_name_the_numbers():
    with pytest.raises(GeometryError, match="region size 100 does not divide by stride 32"):
        RegionGrid(10, 10, 100).layout(32)
    with pytest.raises(GeometryError, match=r"origin \(32, 8\) does not divide by stride 16"):
        RegionGrid(10, 10, 32, (32, 8)).layout(16)
    with pytest.raises(GeometryError, match=r"origin \(0, -4\)"):
        RegionGrid(10, 10, 4, (0, -4))
    with pytest.raises(GeometryError, match=r"origin \(-1, 0\)"):
        TokenLayout(1, 1, 1, origin=(-1, 0))
    with pytest.raises(GeometryError, match="0 × 5 px"):
        RegionGrid(0, 5, 4)
    with pytest.raises(GeometryError, match="overlap 8"):
        tile_starts(20, 8, 8)
    assert Window(-3, 2, 5, 5).clip(4, 4) == Window(0, 2, 2, 2)
