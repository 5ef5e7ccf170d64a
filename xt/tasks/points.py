"""From maps of point detection to points, and thresholds tuned on validation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from xt.data.labels import LabelTable
from xt.errors import CheckpointError, nearest
from xt.metrics.xview3 import TOLERANCE, score

Maps = Mapping[str, npt.NDArray[np.float32]]
MIN_CENTER = 50.0
"""Components are of pixels above this, of 255."""
OF_CLASS = "class "
"""Begins the names of maps that tell a class."""
AROUND = 4
"""Pixels around a centre that decide about its flags and length."""


@dataclass(frozen=True)
class Thresholds:
    """Decisions of the post-processing, on the scale 0..255 of the targets; the defaults are the released ones.

    Attributes:
        center: A component is an object if its highest centre value exceeds this.
        vessel: It is a vessel if more than ``pixels`` of its surroundings exceed this.
        fishing: Likewise.
        pixels: See above.
    """

    center: float = 100.0
    vessel: float = 100.0
    fishing: float = 100.0
    pixels: float = 8.0

    def to_dict(self) -> dict[str, float]:
        """Return name → value."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, float]) -> "Thresholds":
        """Read what :meth:`to_dict` gave; missing names keep their defaults.

        Raises:
            CheckpointError: If a name is unknown.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise CheckpointError(f"no threshold is named {name!r}{nearest(name, known)}")
        return cls(**values)


GRID = tuple(sorted(map(float, range(50, 250, 5)), key=lambda value: abs(value - Thresholds.center)))
"""Thresholds that are tried, the default first, so that of equals the nearest to it counts."""


@dataclass(frozen=True)
class Candidates:
    """Components of the centre map with what decides about them.

    Attributes:
        table: Place and length; the score is the highest centre value in 0..255.
        vessel: The value that decides the vessel flag; NaN where none is known.
        fishing: The value that decides the fishing flag; likewise.
        kinds: What the maps of the classes say ``(N, classes)``.
    """

    table: LabelTable
    vessel: npt.NDArray[np.float64]
    fishing: npt.NDArray[np.float64]
    kinds: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))

    def named(self, classes: Sequence[str]) -> "Candidates":
        """Give each the class of which its maps say most."""
        names = np.array(classes)[self.kinds.argmax(1)] if len(self.table) else np.zeros(0, np.str_)
        return replace(self, table=replace(self.table, label=names))

    def decide(self, thresholds: Thresholds) -> LabelTable:
        """Keep the objects and set their flags."""
        keep = self.table.score > thresholds.center
        is_vessel = _above(self.vessel, thresholds.vessel)
        is_fishing = _above(self.fishing, thresholds.fishing) * is_vessel
        return replace(self.table, is_vessel=is_vessel, is_fishing=is_fishing).select(keep)

    def in_raster_order(self) -> "Candidates":
        """Sort by row, then by column."""
        order = np.lexsort((self.table.column, self.table.row))
        kinds = self.kinds[order] if len(self.kinds) else self.kinds
        return Candidates(self.table.select(order), self.vessel[order], self.fishing[order], kinds)

    @classmethod
    def concatenate(cls, parts: list["Candidates"]) -> "Candidates":
        """Join candidates."""
        if not parts:
            return cls(LabelTable.build(0), np.zeros(0), np.zeros(0))
        tables = LabelTable.concatenate([part.table for part in parts])
        flags = (np.concatenate([getattr(part, name) for part in parts]) for name in ("vessel", "fishing"))
        kinds = [part.kinds for part in parts if len(part.kinds)]
        return cls(tables, next(flags), next(flags), np.concatenate(kinds) if kinds else parts[0].kinds)


@dataclass(frozen=True)
class Components:
    """Connected parts of a centre map, of eight neighbours each; sums are over their pixels.

    Attributes:
        labels: ``(H, W)``; the number of the component from 1 on, 0 for none.
        boxes: Rows and columns of each.
        weight: Sum of the centre values.
        row_moment: Sum of centre value × row.
        col_moment: Sum of centre value × column.
        peak: Highest centre value.
    """

    labels: npt.NDArray[np.int32]
    boxes: list[tuple[slice, slice]]
    weight: npt.NDArray[np.float64]
    row_moment: npt.NDArray[np.float64]
    col_moment: npt.NDArray[np.float64]
    peak: npt.NDArray[np.float64]

    @classmethod
    def of(cls, center: npt.NDArray[np.float32], min_center: float = MIN_CENTER) -> "Components":
        """Find the components of the pixels of ``(H, W)`` above a value."""
        labels: npt.NDArray[np.int32] = np.zeros(center.shape, np.int32)
        num = int(ndimage.label(center > min_center, structure=np.ones((3, 3), int), output=labels))
        rows, cols = np.nonzero(labels)
        of, values = labels[rows, cols] - 1, center[rows, cols].astype(np.float64)
        peak = np.zeros(num)
        np.maximum.at(peak, of, values)
        boxes = [(box[0], box[1]) for box in ndimage.find_objects(labels)]
        weight, by_row, by_col = (added_up(of, each, num) for each in (values, values * rows, values * cols))
        return cls(labels, boxes, weight, by_row, by_col, peak)


def find_candidates(
    maps: Maps,
    scene_id: str = "",
    origin: tuple[int, int] = (0, 0),
    min_center: float = MIN_CENTER,
    pixels: int = 8,
) -> Candidates:
    """Find connected components of the centre map.

    Args:
        maps: ``center``, ``vessel``, ``fishing`` in 0..255 and ``length`` in metres, each ``(H, W)``; what all but the
            centre tell is unknown where they are missing. Those of classes are named ``class NAME``.
        scene_id: Of the points.
        origin: Row and column of the maps in the scene.
        min_center: Components are of pixels above this.
        pixels: Of the rule, see :func:`describe`.
    """
    found = Components.of(maps["center"], min_center)
    rows, cols = found.row_moment / found.weight, found.col_moment / found.weight
    return describe(maps, rows, cols, found.peak, scene_id, origin, pixels)


def describe(
    maps: Maps,
    rows: npt.NDArray[np.float64],
    cols: npt.NDArray[np.float64],
    peaks: npt.NDArray[np.float64],
    scene_id: str = "",
    origin: tuple[int, int] = (0, 0),
    pixels: int = 8,
) -> Candidates:
    """Read what decides about components from the maps around their centres.

    The released rule calls an object a vessel if more than 8 pixels exceed a threshold; that is to compare the
    ninth highest value around it with the threshold. That value is kept, so that the threshold can be tuned.

    Args:
        maps: As for :func:`find_candidates`.
        rows: Of the centres in the maps, ``(N,)``.
        cols: Likewise.
        peaks: Highest centre values, ``(N,)``.
        scene_id: Of the points.
        origin: Row and column of the maps in the scene.
        pixels: Of the rule.
    """
    num = len(rows)
    lengths, vessel, fishing = (np.full(num, np.nan) for _ in range(3))
    flags = {name: values for name, values in (("vessel", vessel), ("fishing", fishing)) if name in maps}
    for index in range(num):
        around = _around(rows[index], cols[index], maps["center"].shape)
        if "length" in maps:
            lengths[index] = maps["length"][around].max()
        for name, values in flags.items():
            nearby = maps[name][around].ravel()
            rank = min(pixels, nearby.size - 1)
            values[index] = np.partition(nearby, nearby.size - 1 - rank)[nearby.size - 1 - rank]
    of_classes = [values for name, values in maps.items() if name.startswith(OF_CLASS)]
    kinds = np.array([[each[at].mean() for each in of_classes] for at in map(_beside, rows, cols)])
    table = LabelTable.build(
        num,
        row=rows + origin[0],
        column=cols + origin[1],
        scene_id=np.full(num, scene_id),
        vessel_length_m=lengths,
        score=peaks,
    )
    return Candidates(table, vessel, fishing, kinds.reshape(num, len(of_classes)))


def _beside(row: float, col: float) -> tuple[slice, slice]:
    """Pixels around a centre that decide about its class."""
    top, left = (max(nearest_pixel(place) - 1, 0) for place in (row, col))
    return slice(top, nearest_pixel(row) + 2), slice(left, nearest_pixel(col) + 2)


def tune(candidates: Candidates, labels: LabelTable, tolerance: float = TOLERANCE) -> Thresholds:
    """Choose each head's threshold by its own F1 on labelled scenes; of equals the one nearest the default.

    An object is found within the tolerance in pixels.
    """
    best = Thresholds()
    for name, metric in (("center", "loc_fscore"), ("vessel", "vessel_fscore"), ("fishing", "fishing_fscore")):
        values = []
        for value in GRID:
            tried = replace(best, **{name: value})
            values.append(getattr(score(candidates.decide(tried), labels, tolerance=tolerance), metric))
        best = replace(best, **{name: GRID[int(np.argmax(values))]})
    return best


def _above(values: npt.NDArray[np.float64], threshold: float) -> npt.NDArray[np.float64]:
    return np.where(np.isnan(values), np.nan, values > threshold)


def _around(row: float, col: float, shape: tuple[int, ...], radius: int = AROUND) -> tuple[slice, slice]:
    middle = nearest_pixel(row), nearest_pixel(col)
    top, left = (max(place - radius, 0) for place in middle)
    return slice(top, min(middle[0] + radius + 1, shape[0])), slice(left, min(middle[1] + radius + 1, shape[1]))


def added_up(of: npt.NDArray[Any], values: npt.NDArray[np.float64], num: int) -> npt.NDArray[np.float64]:
    """Sums ``(num,)`` of the values that have the same number ``of``, which counts from 0."""
    return np.asarray(np.bincount(of, values, num), np.float64)


def nearest_pixel(place: float) -> int:
    """The row or column next to a centre, from whichever pixel the counting starts; a half goes to the later one."""
    return math.floor(round(place, 6) + 0.5)  # 6 digits: sums in another order differ in the 12th
