"""A model that is asked once, or of several views of the same pixels: mirrored, or turned by right angles too.

What it says of a view is turned back, and the mean of all is published (test-time augmentation). Each region is turned
in its place, so that views share the scene's grid of regions; in all but the first, an image that does not end with a
region is that with its border of nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from xt.geometry.grid import RegionGrid, Window
from xt.inference.options import Augmentation
from xt.inference.regions import Shapes, shapes_of
from xt.models.pyramid import FeaturePyramid
from xt.models.xt import XT, Maps
from xt.tasks.base import Values

Flags = tuple[bool, ...]
T = TypeVar("T")


@dataclass(frozen=True)
class Turn:
    """One of the eight symmetries of a square: rows and columns change places, then both may be mirrored."""

    transposed: bool = False
    rows_mirrored: bool = False
    cols_mirrored: bool = False

    def apply(self, image: Tensor) -> Tensor:
        """Turn ``(…, h, w)``."""
        turned = image.transpose(-1, -2) if self.transposed else image
        axes = [axis for axis, mirrored in ((-2, self.rows_mirrored), (-1, self.cols_mirrored)) if mirrored]
        return turned.flip(axes) if axes else turned

    def undo(self, turned: Tensor) -> Tensor:
        """Turn ``(…, h, w)`` back."""
        axes = [axis for axis, mirrored in ((-2, self.rows_mirrored), (-1, self.cols_mirrored)) if mirrored]
        image = turned.flip(axes) if axes else turned
        return image.transpose(-1, -2) if self.transposed else image

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Size of the turned image."""
        return (width, height) if self.transposed else (height, width)

    def place(self, row: int, col: int, height: int, width: int) -> tuple[int, int]:
        """Where a cell of a map of ``height`` × ``width`` comes to lie."""
        (row, col), (height, width) = self.shape(row, col), self.shape(height, width)
        return (height - 1 - row if self.rows_mirrored else row), (width - 1 - col if self.cols_mirrored else col)

    def window(self, window: Window, height: int, width: int) -> Window:
        """Where the pixels of a window of an image of ``height`` × ``width`` come to lie."""
        first = self.place(window.row, window.col, height, width)
        last = self.place(window.row_stop - 1, window.col_stop - 1, height, width)
        return Window(min(first[0], last[0]), min(first[1], last[1]), *self.shape(window.height, window.width))

    def grid(self, grid: RegionGrid) -> RegionGrid:
        """The regions of the turned image, with its border; of the first view those of the image itself."""
        if self == Turn():
            return grid
        return RegionGrid(*self.shape(grid.padded_height, grid.padded_width), grid.region_size)

    def flags(self, flags: Flags, grid: RegionGrid) -> Flags:
        """One flag per region, in the order of the turned image."""
        return tuple(self.apply(torch.tensor(flags).view(grid.rows, grid.cols)).flatten().tolist())


TURNS: Mapping[Augmentation, tuple[Turn, ...]] = {
    "none": (Turn(),),
    "flips": tuple(Turn(False, rows, cols) for rows in (False, True) for cols in (False, True)),
    "d4": tuple(Turn(*each) for each in np.ndindex(2, 2, 2)),
}
"""Views by the name of ``--tta``; the first one is the image as it is."""


@dataclass(frozen=True)
class Views:
    """The stages of a model, for all views at once: maps of all views lie behind each other along the channels.

    Attributes:
        model: On its device, in evaluation mode.
        turns: The views.
    """

    model: XT
    turns: Sequence[Turn] = TURNS["none"]

    @property
    def shapes(self) -> Shapes:
        """Sizes of what is kept of a region."""
        one = shapes_of(self.model)
        return Shapes(one.image, tuple((len(self.turns) * n, *side) for n, *side in one.maps))

    def encode(self, regions: Tensor) -> tuple[Tensor, ...]:
        """Encode regions ``(n, C, R, R)``, each of which is an image of its own."""
        found = [[turn.undo(each) for each in encode(self.model, turn.apply(regions))] for turn in self.turns]
        return tuple(_joined(list(each)) for each in zip(*found, strict=True))

    def said(self, features: Tensor, grid: RegionGrid, exists: Flags) -> Tensor:
        """What the context says of last-stage maps ``(1, views · channels, h, w)``, as large as these."""
        parts = features.chunk(len(self.turns), 1)
        return _joined(
            [
                turn.undo(self.model.said(turn.apply(part), turn.grid(grid), (turn.flags(exists, grid),)))
                for turn, part in zip(self.turns, parts, strict=True)
            ]
        )

    def split(self, pyramid: FeaturePyramid) -> list[FeaturePyramid]:
        """The pyramid of each view, turned."""
        maps = zip(*(each.chunk(len(self.turns), 1) for each in pyramid.maps), strict=True)
        return [self._turned(turn, pyramid, own) for turn, own in zip(self.turns, maps, strict=True)]

    def values(
        self,
        pyramids: Sequence[FeaturePyramid],
        activate: Callable[[Mapping[str, Tensor]], Values],
        grid: RegionGrid,
        window: Window | None = None,
    ) -> Values:
        """Decode one image, and take the mean of what a task makes of the answers.

        Args:
            pyramids: Of :meth:`split`, mixed; they may be prepared.
            activate: Of the task.
            grid: Of the image before it was turned.
            window: Pixels of the image; None for a pooled model.

        Returns:
            ``(channels, h, w)``, or ``(channels,)`` of a pooled model.
        """
        total: Values | None = None
        for turn, pyramid in zip(self.turns, pyramids, strict=True):
            size = (grid.height, grid.width) if turn == Turn() else (grid.padded_height, grid.padded_width)
            raw = decode(self.model, pyramid, None if window is None else turn.window(window, *size))
            values = activate({name: each[0] if window is None else turn.undo(each[0]) for name, each in raw.items()})
            total = values if total is None else total + values
        assert total is not None
        return total if len(self.turns) == 1 else total / np.float32(len(self.turns))

    def _turned(self, turn: Turn, pyramid: FeaturePyramid, maps: Sequence[Tensor]) -> FeaturePyramid:
        if turn == Turn():
            return replace(pyramid, maps=tuple(maps))
        grid = pyramid.grid
        border = (0, grid.padded_width - grid.width, 0, grid.padded_height - grid.height)
        return replace(
            pyramid,
            image=turn.apply(pad(pyramid.image, border)),
            maps=tuple(turn.apply(each) for each in maps),
            grid=turn.grid(grid),
            exists=None if pyramid.exists is None else tuple(turn.flags(each, grid) for each in pyramid.exists),
        )


def _joined(views: list[Tensor]) -> Tensor:
    return views[0] if len(views) == 1 else torch.cat(views, 1)


def encode(model: XT, regions: Tensor) -> tuple[Tensor, ...]:
    """Encode regions ``(n, C, R, R)``; when the GPU's memory is full, halve the batch and go on."""
    # Each region is an image of its own: what is beside it does not change its maps.
    maps = _or_with_less(model, "region_batch", lambda: model.encode(regions).maps)
    return tuple(each.float() for each in maps)


def decode(model: XT, pyramid: FeaturePyramid, window: Window | None = None) -> Maps:
    """What the model says of a pyramid, or of a window of it; where the GPU's memory is full in smaller tiles."""
    maps = _or_with_less(model, "decode_size", lambda: model.decode(pyramid, window))
    return {name: each.float() for name, each in maps.items()}


def _or_with_less(model: XT, size: str, work: Callable[[], T]) -> T:
    while True:
        before = getattr(model, size)
        try:
            return work()
        except torch.OutOfMemoryError:
            model.work_on_less()
            if getattr(model, size) == before:
                raise
        torch.cuda.empty_cache()
