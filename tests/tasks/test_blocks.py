"""Points of maps that are read block by block."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xt.geometry.grid import Window
from xt.tasks.blocks import BLOCK, find_in_blocks
from xt.tasks.points import AROUND, Candidates, find_candidates, nearest_pixel

Maps = dict[str, np.ndarray]


def noise(height: int, width: int, seed: int = 0) -> Maps:
    """Maps without an object."""
    rng = np.random.default_rng(seed)
    names = ("vessel", "fishing", "length", "class a", "class b")
    maps = {name: rng.uniform(0, 250, (height, width)).astype(np.float32) for name in names}
    return {"center": rng.uniform(0, 50, (height, width)).astype(np.float32)} | maps


def light(maps: Maps, pixels: np.ndarray, seed: int = 0) -> None:
    """Make pixels (bool, of the maps' size) parts of objects."""
    maps["center"][pixels] = np.random.default_rng(seed).uniform(51, 255, pixels.sum())


def spiral(side: int) -> np.ndarray:
    """A line of one pixel that winds from a corner to the middle, with gaps of one pixel."""
    grid, (row, col), (down, right) = np.zeros((side + 2, side + 2), bool), (1, 1), (0, 1)
    grid[1, 1] = True

    def is_free(row: int, col: int) -> bool:
        inside = 1 <= row <= side and 1 <= col <= side
        return inside and not grid[row, col]

    while True:
        for _ in range(2):
            ahead, beyond = (row + down, col + right), (row + 2 * down, col + 2 * right)
            if is_free(*ahead) and not (1 <= beyond[0] <= side and 1 <= beyond[1] <= side and grid[beyond]):
                break
            down, right = right, -down
        else:
            return grid[1:-1, 1:-1]
        row, col = ahead
        grid[row, col] = True


def found_in_blocks(maps: Maps, block: int) -> tuple[Candidates, list[Window]]:
    asked: list[Window] = []
    height, width = maps["center"].shape

    def read(window: Window) -> Maps:
        assert window == window.clip(height, width)
        asked.append(window)
        return {name: values[window.slices] for name, values in maps.items()}

    return find_in_blocks(read, height, width, "s", block), asked


def assert_same(found: Candidates, whole: Candidates) -> None:
    assert len(found.table) == len(whole.table)
    places = np.stack([found.table.row, found.table.column])
    assert list(np.lexsort(places[::-1])) == list(range(len(found.table)))
    order, other = (np.lexsort((t.column.round(6), t.row.round(6))) for t in (found.table, whole.table))
    for name in ("row", "column", "vessel_length_m", "score"):
        a, b = getattr(found.table, name)[order], getattr(whole.table, name)[other]
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9, err_msg=name)
    np.testing.assert_array_equal(found.vessel[order], whole.vessel[other])
    np.testing.assert_array_equal(found.fishing[order], whole.fishing[other])
    assert found.kinds.shape == (len(found.table), 2) or not len(found.table)
    np.testing.assert_array_equal(found.kinds[order], whole.kinds[other])
    assert set(found.table.scene_id) <= {"s"}


@given(
    st.integers(1, 70), st.integers(1, 70), st.integers(6, 80), st.integers(0, 10**6),
    st.sampled_from([0.02, 0.1, 0.3, 0.4, 0.6, 1.0]), st.sampled_from([1, 2, 5]),
)  # fmt: skip
@settings(max_examples=80)
def test_blocks_find_what_the_whole_finds(height: int, width: int, block: int, seed: int, share: float, grain: int):
    """Specks, and where the share is about 0.4 components that wind through everything."""
    coarse = np.random.default_rng(seed).random((-(-height // grain), -(-width // grain))) < share
    maps = noise(height, width, seed)
    light(maps, np.kron(coarse, np.ones((grain, grain), bool))[:height, :width], seed)
    found, _ = found_in_blocks(maps, block)
    assert_same(found, find_candidates(maps, "s"))


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("block", [3, 8, 31])
def test_a_component_far_from_its_first_pixel_is_one(turns: int, block: int):
    maps = noise(90, 120)
    pixels = np.zeros((90, 120), bool)
    pixels[3:62, 5:64] = np.rot90(spiral(59), turns)
    pixels[10:80, 70:114] |= np.rot90(
        np.pad(np.zeros((35, 38), bool), ((0, 35), (3, 3)), constant_values=True), 2 * turns
    )
    light(maps, np.rot90(pixels, 2 * (turns % 2)))
    found, _ = found_in_blocks(maps, block)
    assert len(found.table) == 2
    assert_same(found, find_candidates(maps, "s"))


@pytest.mark.parametrize("pixels", [
    [(15, 15), (16, 16)], [(15, 16), (16, 15)], [(16, 16)], [(15, 16)], [(16, 15)], [(0, 16), (1, 16)], [(31, 31), (32, 31)],
    [(47, 47)], [(15, 14), (16, 15), (15, 16)], [(14, 17), (15, 16), (16, 15), (17, 14)],
], ids=str)  # fmt: skip
def test_over_edges_and_corners_of_blocks(pixels: list[tuple[int, int]]):
    maps, lit = noise(48, 48), np.zeros((48, 48), bool)
    lit[tuple(zip(*pixels, strict=True))] = True
    light(maps, lit)
    found, _ = found_in_blocks(maps, 16)
    assert len(found.table) == 1
    assert_same(found, find_candidates(maps, "s"))


def test_a_centre_between_two_pixels_has_the_same_surroundings_from_everywhere():
    for row in range(20, 28):
        maps = noise(60, 60)
        maps["center"][row : row + 2, 30:32] = 100
        assert_same(found_in_blocks(maps, 17)[0], find_candidates(maps, "s"))
        part = {name: values[7:, 4:] for name, values in maps.items()}
        assert_same(find_candidates(part, "s", (7, 4)), find_candidates(maps, "s"))
    assert nearest_pixel(2.5 - 1e-11) == nearest_pixel(2.5) == 3


def test_every_pixel_is_read_once_and_the_surroundings_of_what_lies_on_edges():
    maps, lit = noise(200, 300), np.zeros((200, 300), bool)
    lit[30:33, 30:33] = lit[62:66, 100:104] = lit[100:103, 125:131] = True
    lit[0, 0] = lit[0, 60:66] = lit[199, 299] = lit[64 + AROUND : 128 - AROUND, 200] = (
        True  # on borders, and just inside
    )
    light(maps, lit)
    _, asked = found_in_blocks(maps, 64)
    times = np.zeros((200, 300), int)
    for window in asked[:20]:
        times[window.slices] += 1
    assert (times == 1).all()
    assert [(window.height, window.width) for window in asked[20:]] == [
        (AROUND + 1, 2 * AROUND + 1),
        *[(2 * AROUND + 1,) * 2] * 2,
    ]


def test_blocks_are_no_wider_than_they_are_said_to_be():
    maps, lit = noise(40, 2 * BLOCK + 5), np.zeros((40, 2 * BLOCK + 5), bool)
    lit[20:24, BLOCK - 3 : BLOCK + 3] = True
    light(maps, lit)
    asked: list[Window] = []

    def read(window: Window) -> Maps:
        asked.append(window)
        return {name: values[window.slices] for name, values in maps.items()}

    assert_same(find_in_blocks(read, 40, 2 * BLOCK + 5, "s"), find_candidates(maps, "s"))
    assert max(window.width for window in asked) == BLOCK
