"""In which order a whole scene is worked through: integers only.

A scene has one grid of regions. Windows of whole regions, overlapping, are the units of work, row by row: a unit
encodes those of its regions that no unit before had, mixes their tokens, and decodes the rectangle of pixels about
which nothing can change any more. The rectangles of all units tile the scene.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt

from xt.geometry.blend import Blend, axis_weights, tile_starts
from xt.geometry.grid import RegionGrid, Window


def blocks(pixels: Window, height: int, width: int) -> list[Window]:
    """Cut pixels along a raster of ``height × width`` px that starts at the scene's first pixel."""
    rows, cols = (
        list(pairwise([start, *range((start // size + 1) * size, stop, size), stop]))
        for start, stop, size in ((pixels.row, pixels.row_stop, height), (pixels.col, pixels.col_stop, width))
    )
    return [
        Window(top, left, bottom - top, right - left)
        for (top, bottom), (left, right) in product(rows, cols)
        if bottom > top and right > left
    ]


@dataclass(frozen=True)
class Rectangle:
    """A rectangle of regions: rows ``top … bottom − 1``, columns ``left … right − 1``."""

    top: int
    bottom: int
    left: int
    right: int

    def __contains__(self, place: tuple[int, int]) -> bool:
        return self.top <= place[0] < self.bottom and self.left <= place[1] < self.right

    @property
    def shape(self) -> tuple[int, int]:
        """Regions high and wide."""
        return self.bottom - self.top, self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of an array with one place for each region."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def places(self) -> list[tuple[int, int]]:
        """Row and column of each region, in raster order."""
        return list(product(range(self.top, self.bottom), range(self.left, self.right)))


@dataclass(frozen=True)
class Unit:
    """One step through a scene.

    Attributes:
        index: From 0.
        rows: Number of the window along the rows.
        cols: Number of the window along the columns.
        window: The regions that are mixed.
        final: The pixels that can be decoded after it; may be empty.
        needed: The regions that they are decoded from.
    """

    index: int
    rows: int
    cols: int
    window: Rectangle
    final: Window
    needed: Rectangle


@dataclass(frozen=True)
class _Axis:
    """Windows along one axis.

    Attributes:
        starts: First region of each window.
        size: Regions of a window.
        cuts: Pixels that are final after each window, of those before which none is missing.
        last: For each region the last window whose unit needs it.
    """

    starts: list[int]
    size: int
    cuts: list[int]
    last: list[int]


@dataclass(frozen=True)
class ScenePlan:
    """The units of a scene, and what lives how long.

    Attributes:
        grid: All regions.
        side: Regions along a side of a window, at most.
        overlap: Regions that neighbouring windows share, at least.
        halo: Pixels around a pixel that it is decoded from.
        batch: Regions of a row that are encoded together.
        share: Which part of the work is done, and of how many, as in ``(2, 5)``; all by default.

    Raises:
        GeometryError: If the overlap is not smaller than the window.
    """

    grid: RegionGrid
    side: int
    overlap: int
    halo: int
    batch: int
    share: tuple[int, int] = (1, 1)

    @cached_property
    def units(self) -> list[Unit]:
        """All units in their order."""
        return [
            self._unit(index, k, j)
            for index, (k, j) in enumerate(product(range(len(self._down.starts)), range(len(self._across.starts))))
        ]

    @cached_property
    def work(self) -> list[Unit]:
        """The units of this share, in their order.

        Those whose pixels it decodes, and before them those that tell something about the same regions, of which
        nothing is final here. So a pixel of a share is what it is in the whole.
        """
        number, shares = self.share
        if shares == 1:
            return self.units
        pixels = np.array([unit.final.height * unit.final.width for unit in self.units], np.int64)
        # A unit is of the share in which the middle of its pixels lies, when all are counted one after the other.
        shared = (2 * pixels.cumsum() - pixels) * shares // (2 * pixels.sum())
        own = [self.units[index] for index in np.flatnonzero((shared == number - 1) & (pixels > 0))]
        stop = own[-1].index + 1 if own else 0
        used = np.zeros((self.grid.rows, self.grid.cols), bool)
        for each in (rectangle for unit in own for rectangle in (unit.window, unit.needed)):
            used[each.slices] = True
        mine = {unit.index for unit in own}
        return [
            unit if unit.index in mine else replace(unit, final=Window(unit.final.row, unit.final.col, 0, 0))
            for unit in self.units[:stop]
            if used[unit.window.slices].any()
        ]

    @cached_property
    def num_batches(self) -> int:
        """Batches of regions in all."""
        return sum(len(new) for _, new in self.batches())

    @cached_property
    def num_regions(self) -> int:
        """Regions in all."""
        return sum(len(batch) for _, new in self.batches() for batch in new)

    @cached_property
    def owned(self) -> frozenset[tuple[int, int]]:
        """The regions whose first pixel this share decodes, and no other."""
        size, found = self.grid.region_size, set[tuple[int, int]]()
        for final in (unit.final for unit in self.work):
            rows, cols = (
                range(-(-start // size), -(-stop // size))
                for start, stop in ((final.row, final.row_stop), (final.col, final.col_stop))
            )
            found.update(product(rows, cols))
        return frozenset(found)

    def batch_of(self, row: int, col: int) -> tuple[tuple[int, int], ...]:
        """The regions that are encoded together with one; they do not depend on the unit that asks."""
        start = col // self.batch * self.batch
        return tuple((row, each) for each in range(start, min(start + self.batch, self.grid.cols)))

    def rows(self) -> list[tuple[tuple[int, int], ...]]:
        """All batches, row by row over the whole width."""
        grid = self.grid
        return [self.batch_of(row, col) for row in range(grid.rows) for col in range(0, grid.cols, self.batch)]

    def batches(self, first_unit: int = 0) -> Iterator[tuple[Unit, list[tuple[tuple[int, int], ...]]]]:
        """Yield units and the batches that each must encode, since no unit before it did.

        Args:
            first_unit: Start here; what earlier ones encoded is not yielded.
        """
        done: set[tuple[int, int]] = set()
        for unit in self.work:
            new = []
            for place in unit.window.places:
                batch = self.batch_of(*place)
                if batch[0] not in done:
                    done.add(batch[0])
                    new.append(batch)
            if unit.index >= first_unit:
                yield unit, new

    def last_unit(self, row: int, col: int) -> int:
        """The last unit that needs a region."""
        return self._down.last[row] * len(self._across.starts) + self._across.last[col]

    def regions_of(self, pixels: Window, margin: int = 0) -> Rectangle:
        """The regions in which pixels lie, and those around them up to ``margin`` px away."""
        around = pixels.grow(margin).clip(self.grid.height, self.grid.width).coarsened(self.grid.region_size)
        return Rectangle(around.row, around.row_stop, around.col, around.col_stop)

    def seen_from(self, pixels: Window, stride: int) -> Window:
        """What pixels are decoded from, on whole cells of ``stride`` pixels; it may reach into the padding."""
        cells = pixels.coarsened(stride).refined(stride)
        return cells.grow(self.halo).clip(self.grid.padded_height, self.grid.padded_width)

    def pixels_of(self, regions: Rectangle) -> Window:
        """The pixels of the scene that lie in regions."""
        return self.frame_of(regions).clip(self.grid.height, self.grid.width)

    def frame_of(self, regions: Rectangle) -> Window:
        """All pixels of regions, those beyond the scene's border too."""
        return Window(regions.top, regions.left, *regions.shape).refined(self.grid.region_size)

    def dropped_after(self, unit: Unit) -> list[tuple[int, int]]:
        """Regions that no later unit needs."""
        rows = [row for row, last in enumerate(self._down.last) if last == unit.rows]
        cols = [col for col, last in enumerate(self._across.last) if last == unit.cols]
        return list(product(rows, cols))

    def covering(self, block: Window) -> list[Unit]:
        """The units in whose windows a pixel of a block lies."""
        size = self.grid.region_size
        found = []
        for axis, start, stop in (
            (self._down, block.row, block.row_stop),
            (self._across, block.col, block.col_stop),
        ):
            found.append(
                [i for i, first in enumerate(axis.starts) if first * size < stop and start < (first + axis.size) * size]
            )
        return [self.units[k * len(self._across.starts) + j] for k, j in product(*found)]

    def weights(
        self, unit: Unit, per_region: int, blend: Blend
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """What a window counts where windows overlap; those of all windows sum to 1 everywhere.

        Args:
            unit: Of the window.
            per_region: Places along a side of a region: tokens, or pixels.
            blend: How windows fade into each other.

        Returns:
            Weights along the rows and along the columns of the window; a place counts their product.
        """
        axes = ((self._down, self.grid.rows, unit.rows), (self._across, self.grid.cols, unit.cols))
        rows, cols = (
            axis_weights([n * per_region for n in axis.starts], axis.size * per_region, length * per_region, blend)[i]
            for axis, length, i in axes
        )
        return rows, cols

    @cached_property
    def _down(self) -> _Axis:
        return self._axis(self.grid.rows, self.grid.height)

    @cached_property
    def _across(self) -> _Axis:
        return self._axis(self.grid.cols, self.grid.width)

    def _axis(self, regions: int, pixels: int) -> _Axis:
        size = min(self.side, regions)
        starts = tile_starts(regions, size, min(self.overlap, size - 1))
        step = self.grid.region_size
        cuts = [max(0, start * step - self.halo) for start in starts[1:]] + [pixels]
        last = [0] * regions
        for which, (start, before, cut) in enumerate(zip(starts, [0, *cuts], cuts, strict=False)):
            # Its own window, and what its pixels are decoded from.
            used = set(range(start, start + size)) | set(self._reach(before, cut, regions) if cut > before else ())
            for region in used:
                last[region] = which
        return _Axis(starts, size, cuts, last)

    def _reach(self, before: int, cut: int, regions: int) -> range:
        """Regions along an axis from which pixels ``before … cut − 1`` are decoded."""
        size = self.grid.region_size
        return range(max(before - self.halo, 0) // size, min(-(-(cut + self.halo) // size), regions))

    def _unit(self, index: int, k: int, j: int) -> Unit:
        down, across = self._down, self._across
        top, left = (0 if not i else axis.cuts[i - 1] for i, axis in ((k, down), (j, across)))
        final = Window(top, left, down.cuts[k] - top, across.cuts[j] - left)
        rows = self._reach(top, down.cuts[k], self.grid.rows)
        cols = self._reach(left, across.cuts[j], self.grid.cols)
        row, col = down.starts[k], across.starts[j]
        return Unit(
            index,
            k,
            j,
            Rectangle(row, row + down.size, col, col + across.size),
            final,
            Rectangle(rows.start, rows.stop, cols.start, cols.stop),
        )
