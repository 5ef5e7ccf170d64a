"""Scales of a token map, each a pooling of the one below, and the windows that cut them: integers only."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from xt.geometry import order
from xt.geometry.grid import TokenLayout

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Scale:
    """Cells of one scale that hold a token, in raster order, and the windows that hold a cell.

    Attributes:
        parents: For each cell the cell of the scale above that it is pooled into; 0 at the coarsest.
        children: Cells of the scale below pooled into each, ``(cells, pool²)``, filled up by −1; none at the finest.
        windows: Cells of each window, ``(windows, window²)``, filled up by −1.
        above: For each window, the window of each coarser scale that covers it, ``(windows, scales above)``.
    """

    parents: Indices
    children: Indices
    windows: Indices
    above: Indices


@lru_cache(maxsize=16)
def scales(layout: TokenLayout, window: int, pool: int) -> tuple[Scale, ...]:
    """Scales of a map from the finest on, until one window holds all; windows and pools lie on the scene's grid.

    Args:
        layout: Regions that do not exist have no cells; a cell above exists where one below it does.
        window: Cells along one side of a window.
        pool: Cells along one side that become one of the next scale.
    """
    cells = [order.scene_positions(layout)]
    parents = []
    while len(np.unique(cells[-1] // window, axis=0)) > 1:
        above, index = np.unique(cells[-1] // pool, axis=0, return_inverse=True)
        parents.append(index.reshape(-1).astype(np.int64))
        cells.append(above)
    parents.append(np.zeros(len(cells[-1]), dtype=np.int64))
    tiles = [np.unique(each // window, axis=0, return_inverse=True) for each in cells]
    found = []
    for level, (corners, index) in enumerate(tiles):
        count = len(cells[level])
        below = _members(parents[level - 1], count) if level else np.empty((count, 0), dtype=np.int64)
        above_it = [_find(tiles[n][0], corners // pool ** (n - level)) for n in range(level + 1, len(tiles))]
        covers = np.stack(above_it, 1) if above_it else np.empty((len(corners), 0), dtype=np.int64)
        found.append(Scale(parents[level], below, _members(index.reshape(-1), len(corners)), covers))
    return tuple(found)


def _members(group: Indices, count: int) -> Indices:
    """Members of each group ``0 … count − 1``, ascending, filled up by −1."""
    sizes = np.bincount(group, minlength=count)
    members = np.full((count, int(sizes.max(initial=1))), -1, dtype=np.int64)
    by_group = np.argsort(group, kind="stable")
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    members[group[by_group], np.arange(len(group)) - starts] = by_group
    return members


def _find(rows: Indices, wanted: Indices) -> Indices:
    """Index of each wanted row among sorted unique rows that hold them all."""
    stride = max(int(rows.max(initial=0)), int(wanted.max(initial=0))) + 1
    keys, sought = (each[:, 0] * stride + each[:, 1] for each in (rows, wanted))
    return np.searchsorted(keys, sought).astype(np.int64)
