"""Polygons joined over strips are those of the whole raster, which GDAL finds at once."""

import numpy as np
import numpy.typing as npt
import pytest
import shapely
import shapely.geometry
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import shapes

from xt.inference.polygons import Polygon, PolygonJoiner

Found = list[tuple[int, bytes]]
NUMBERS = {
    "uint8": (0, 255),
    "int8": (-128, 127),
    "int16": (-9, 300),
    "uint32": (0, 2**32 - 1),
    "int64": (-(2**62), 2**62),
}


def at_once(values: npt.NDArray, counts: npt.NDArray[np.bool_]) -> Found:
    """Value and geometry of every polygon; GDAL is given codes in place of values that it does not take."""
    known, codes = np.unique(values, return_inverse=True)
    found = shapes(codes.reshape(values.shape).astype(np.int32), counts, connectivity=4)
    return sorted((int(known[int(code)]), normal(shapely.geometry.shape(each))) for each, code in found)


def joined(values: npt.NDArray, counts: npt.NDArray[np.bool_], heights: list[int]) -> Found:
    return sorted(
        (each.value, normal(shapely.Polygon(each.rings[0], each.rings[1:])))
        for each in polygons(values, counts, heights)
    )


def polygons(values: npt.NDArray, counts: npt.NDArray[np.bool_], heights: list[int]) -> list[Polygon]:
    joiner, row, found = PolygonJoiner(*values.shape), 0, []
    while row < len(values):
        height = heights[row % len(heights)]
        found += joiner.add(values[row : row + height], counts[row : row + height])
        row += height
    return found


def normal(shape: shapely.Polygon) -> bytes:
    assert shape.is_valid
    return shapely.to_wkb(shapely.normalize(shape))


@settings(max_examples=400)
@given(
    size=st.tuples(st.integers(1, 13), st.integers(1, 13)), seed=st.integers(0, 2**31), num=st.integers(1, 4),
    missing=st.sampled_from([0.0, 0.1, 0.5]), heights=st.lists(st.integers(1, 5), min_size=1, max_size=3),
)  # fmt: skip
def test_any_map_in_any_strips(size: tuple[int, int], seed: int, num: int, missing: float, heights: list[int]):
    rng = np.random.default_rng(seed)
    values, counts = rng.integers(0, num, size, dtype=np.uint8), rng.random(size) >= missing
    assert joined(values, counts, heights) == at_once(values, counts)


@pytest.mark.parametrize("scale", [3, 17])
@pytest.mark.parametrize("height", [1, 7, 64])
def test_large_shapes_of_many_strips(scale: int, height: int):
    coarse = np.random.default_rng(scale).integers(0, 3, (-(-200 // scale), -(-230 // scale)), dtype=np.uint8)
    values = np.kron(coarse, np.ones((scale, scale), np.uint8))[:200, :230]
    values[::31, ::29] = 7
    counts = values != 2
    assert joined(values, counts, [height]) == at_once(values, counts)


@pytest.mark.parametrize("height", [1, 2, 5])
def test_combs_rings_and_spirals(height: int):
    size = 41
    row, col = np.indices((size, size))
    comb = ((col % 2 == 0) | (row == size - 1)).astype(np.uint8)
    rings = (np.maximum(abs(row - 20), abs(col - 20)) % 2).astype(np.uint8)
    chess = ((row + col) % 2).astype(np.uint8)
    spiral = np.zeros((size, size), np.uint8)
    at, step = [0, 0], (0, 1)
    for length in [40, *np.repeat(range(40, 0, -2), 2)[:-1]]:
        for _ in range(length):
            spiral[tuple(at)] = 1
            at = [at[0] + step[0], at[1] + step[1]]
        step = (step[1], -step[0])
    for values in (comb, comb[::-1], comb.T, rings, chess, spiral, spiral.T):
        counts = np.ones(values.shape, bool)
        assert joined(values, counts, [height]) == at_once(values, counts)


@pytest.mark.parametrize("dtype", NUMBERS)
def test_numbers_of_any_type(dtype: str):
    values = np.random.default_rng(1).choice(np.array(NUMBERS[dtype], dtype), (9, 11))
    counts = np.ones(values.shape, bool)
    assert {value for value, _ in joined(values, counts, [4])} == set(NUMBERS[dtype])
    assert joined(values, counts, [4]) == at_once(values, counts)


def test_corners_are_told_apart_beyond_row_255():
    values = np.ones((300, 2), np.uint8)
    values[0, 0] = values[256:, 0] = 0  # corners at column 1, row 0, and column 0, row 256
    assert joined(values, values == 1, [130]) == at_once(values, values == 1)


def test_the_outer_ring_is_found_far_from_the_first_pixel():
    values = np.zeros((10, 70_000), np.uint8)
    values[2:8, 100:30_781] = 1  # of its edges and rows one product lies below 2³¹, one above
    values[4:6, 105:107] = 0
    joiner, counts = PolygonJoiner(70_000, 70_000), values == 1
    joiner.row = 69_990
    (found,) = [each for row in (0, 5) for each in joiner.add(values[row : row + 5], counts[row : row + 5])]
    assert [shapely.Polygon(ring).area for ring in found.rings] == [6 * 30_681, 4]


def test_nothing_counts():
    assert polygons(np.ones((5, 6), np.uint8), np.zeros((5, 6), bool), [2]) == []


def test_what_is_complete_is_given_at_once():
    joiner = PolygonJoiner(6, 8)
    values = np.zeros((6, 8), np.uint8)
    values[1, 1] = values[2:4, 5] = 1
    counts = values == 1
    assert [len(list(joiner.add(values[row : row + 3], counts[row : row + 3]))) for row in (0, 3)] == [1, 1]
