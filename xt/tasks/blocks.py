"""Points of maps that are too large to be held: found block by block, each once and whole."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from xt.geometry.grid import RegionGrid, Window
from xt.tasks.points import AROUND, Candidates, Components, Maps, added_up, describe, nearest_pixel

BLOCK = 1024
"""Side of a block in pixels."""


def find_in_blocks(
    read: Callable[[Window], Maps], height: int, width: int, scene_id: str = "", block: int = BLOCK
) -> Candidates:
    """Find what :func:`~xt.tasks.points.find_candidates` finds in the whole maps.

    Every block is read and labelled once. A component that comes near the edge of its block is put together from its
    pieces, however far it reaches, and its surroundings are read in the end. What is held is one block, two rows of
    numbers across the maps, and what was found.

    Args:
        read: Window inside the maps → the maps there, as :func:`~xt.tasks.points.find_candidates` takes them.
        height: Rows in all.
        width: Columns in all.
        scene_id: Of the points.
        block: Side of a block in pixels.

    Returns:
        Candidates sorted by row, then by column.
    """
    blocks = RegionGrid(height, width, block)
    found, seams = [], _Seams(width)
    for index in range(blocks.num_regions):
        window = blocks.clipped(index)
        maps = read(window)
        parts = Components.of(maps["center"])
        whole = np.array([_is_inside(box, window, height, width) for box in parts.boxes], dtype=bool)
        seams.add(window, parts, ~whole)
        weight = parts.weight[whole]
        rows, cols = parts.row_moment[whole] / weight, parts.col_moment[whole] / weight
        found.append(describe(maps, rows, cols, parts.peak[whole], scene_id, (window.row, window.col)))
    for row, col, peak in zip(*seams.joined(), strict=True):
        window = Window(nearest_pixel(row), nearest_pixel(col), 1, 1).grow(AROUND).clip(height, width)
        place = np.array([row - window.row]), np.array([col - window.col])
        found.append(describe(read(window), *place, np.array([peak]), scene_id, (window.row, window.col)))
    return Candidates.concatenate(found).in_raster_order()


def _is_inside(box: tuple[slice, slice], window: Window, height: int, width: int) -> bool:
    """Whether a component lies in a block with all that decides about it; ``box`` counts from the block."""
    (top, bottom), (left, right) = ((side.start - AROUND, side.stop + AROUND) for side in box)
    return (
        (top >= 0 or window.row == 0)
        and (left >= 0 or window.col == 0)
        and (bottom <= window.height or window.row_stop == height)
        and (right <= window.width or window.col_stop == width)
    )


class _Seams:
    """Pieces of components, and which of them touch over the edges of blocks, which come in raster order."""

    def __init__(self, width: int) -> None:
        self.above, self.current = (np.zeros(width + 2, np.int64) for _ in range(2))
        """Numbers of the pieces in the last row of the blocks above and of these; one more column on both sides."""
        self.left: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        """Likewise in the last column of the block to the left."""
        self.num = 0
        self.sums: list[npt.NDArray[np.float64]] = []
        self.pairs: list[npt.NDArray[np.int64]] = []

    def add(self, window: Window, parts: Components, chosen: npt.NDArray[np.bool_]) -> None:
        """Take pieces of a block: weight, moments from the maps' first pixel, and peak."""
        if window.col == 0:
            self.above, self.current = self.current, self.above
            self.left = np.zeros(window.height + 2, np.int64)
        numbers = np.zeros(len(chosen) + 1, np.int64)  # of labels; 0 is none
        numbers[1:][chosen] = self.num + 1 + np.arange(chosen.sum())
        self.num += int(chosen.sum())
        weight = parts.weight
        by_row, by_col = parts.row_moment + window.row * weight, parts.col_moment + window.col * weight
        self.sums.append(np.stack([weight, by_row, by_col, parts.peak])[:, chosen])
        columns = slice(window.col, window.col_stop + 2)
        self._touching(numbers[parts.labels[0]], self.above[columns])
        self._touching(numbers[parts.labels[:, 0]], self.left)
        self.current[columns][1:-1] = numbers[parts.labels[-1]]
        self.left = np.pad(numbers[parts.labels[:, -1]], 1)

    def joined(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Rows and columns of the centres, and peaks, of whole components, each ``(N,)``; sorted by row."""
        sums = np.concatenate([np.zeros((4, 0)), *self.sums], axis=1)
        ends = np.concatenate([np.zeros((2, 0), np.int64), *self.pairs], axis=1) - 1
        graph = coo_array((np.ones(ends.shape[1]), (ends[0], ends[1])), shape=(self.num, self.num))
        num, of = connected_components(graph, directed=False) if self.num else (0, np.zeros(0, np.int32))
        weight, by_row, by_col = (added_up(of, each, num) for each in sums[:3])
        peak = np.zeros(num)
        np.maximum.at(peak, of, sums[3])
        rows, cols = by_row / weight, by_col / weight
        order = np.argsort(rows)
        return rows[order], cols[order], peak[order]

    def _touching(self, edge: npt.NDArray[np.int64], beyond: npt.NDArray[np.int64]) -> None:
        """Note which pieces on an edge have a neighbour among those beyond it, which begin one pixel earlier."""
        for shift in range(3):
            pairs = np.stack([edge, beyond[shift : shift + len(edge)]])
            self.pairs.append(np.unique(pairs[:, (pairs > 0).all(axis=0)], axis=1))
