"""Targets of point detection, as in the xView3 recipe of xT (arXiv 2403.01915, appendix)."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from xt.data.labels import LabelTable

CENTER_SIGMA = 2.0
CENTER_REACH = 4
"""Deviations after which the Gaussian at a centre is cut off."""
DISC_RADIUS = 4
IGNORE_RADIUS = 7
CENTER_SCALE = 255.0
LENGTH_SCALE_M = 100.0
IGNORE = 255
IGNORE_LENGTH = -1.0
UNKNOWN = 255
"""Of a pixel without a class."""

CenterActivation = Literal["sigmoid", "linear"]
"""How the output of the centre's head becomes a value in 0..1; the loss decides."""
Array = npt.NDArray[np.generic]


def detection_targets(
    points: LabelTable, height: int, width: int, center_sigma: float = CENTER_SIGMA
) -> dict[str, npt.NDArray[np.generic]]:
    """Draw the targets of the objects in an image.

    Args:
        points: Objects; row and column in pixels of this image, they may lie outside.
        height: Rows of the image.
        width: Columns of the image.
        center_sigma: Of the Gaussian at a centre, in pixels; it is cut off at :data:`CENTER_REACH` of them.

    Returns:
        ``center`` ``(1, H, W)`` uint8, a Gaussian of 255 at each object, the larger where two meet; ``vessel`` and
        ``fishing`` uint8, 1 in discs of radius 4 px, 255 (ignored) in discs of radius 7 px where unknown;
        ``length`` float32 metres in discs of radius 4 px, −1 (ignored) in discs of radius 7 px where unknown.
    """
    center = np.zeros((height, width), np.uint8)
    vessel, fishing = np.zeros_like(center), np.zeros_like(center)
    length = np.zeros((height, width), np.float32)
    rows, cols = np.rint(points.row).astype(int), np.rint(points.column).astype(int)
    is_vessel, is_fishing, metres = _known(points)
    # Unknown first, so that what is known of a neighbour wins.
    for i in np.flatnonzero(np.isnan(is_vessel)):
        _stamp(vessel, rows[i], cols[i], _DISC[IGNORE_RADIUS], lambda old, m: np.where(m, IGNORE, old))
    for i in np.flatnonzero(np.isnan(is_fishing)):
        _stamp(fishing, rows[i], cols[i], _DISC[IGNORE_RADIUS], lambda old, m: np.where(m, IGNORE, old))
    for i in np.flatnonzero(np.isnan(metres)):
        _stamp(length, rows[i], cols[i], _DISC[IGNORE_RADIUS], lambda old, m: np.where(m, IGNORE_LENGTH, old))
    gaussian = _gaussian(center_sigma)
    for i in np.arange(len(points)):
        _stamp(center, rows[i], cols[i], gaussian, np.maximum)
        for target, flag in ((vessel, is_vessel[i]), (fishing, is_fishing[i])):
            if not np.isnan(flag):
                _stamp(target, rows[i], cols[i], _DISC[DISC_RADIUS], _setter(flag))
        if metres[i] > 0:
            _stamp(length, rows[i], cols[i], _DISC[DISC_RADIUS], _setter(metres[i]))
    return {"center": center[None], "vessel": vessel[None], "fishing": fishing[None], "length": length[None]}


def class_targets(
    points: LabelTable, classes: Sequence[str], height: int, width: int, center_sigma: float = CENTER_SIGMA
) -> dict[str, npt.NDArray[np.generic]]:
    """Draw the targets of objects of classes.

    Args:
        points: Objects; row and column in pixels of this image, they may lie outside.
        classes: Their names, in the order of the channels.
        height: Rows of the image.
        width: Columns of the image.
        center_sigma: As in :func:`detection_targets`.

    Returns:
        ``center`` ``(1, H, W)`` as there; ``kind`` uint8, the number of the class in discs of radius 4 px, and
        :data:`UNKNOWN` elsewhere and where nobody is sure.
    """
    center, kind = np.zeros((height, width), np.uint8), np.full((height, width), UNKNOWN, np.uint8)
    rows, cols = np.rint(points.row).astype(int), np.rint(points.column).astype(int)
    numbers = {name: number for number, name in enumerate(classes)}
    for i in np.arange(len(points)):
        _stamp(center, rows[i], cols[i], _gaussian(center_sigma), np.maximum)
        if points.confidence[i] != "LOW":
            _stamp(kind, rows[i], cols[i], _DISC[DISC_RADIUS], _setter(numbers[str(points.label[i])]))
    return {"center": center[None], "kind": kind[None]}


def untold(points: LabelTable) -> tuple[str, ...]:
    """Name the targets of :func:`detection_targets` that none of these objects teaches."""
    vessel, fishing, metres = _known(points)
    told = {"vessel": ~np.isnan(vessel), "fishing": (vessel == 1) & ~np.isnan(fishing), "length": metres > 0}
    return tuple(name for name, objects in told.items() if not objects.any())


def cell_targets(points: LabelTable, height: int, width: int, stride: int) -> dict[str, npt.NDArray[np.float32]]:
    """Tell what the cells of a coarse map hold.

    Args:
        points: Objects, in pixels of the image.
        height: Rows of the map.
        width: Columns of the map.
        stride: Pixels per cell.

    Returns:
        ``holds`` a vessel, ``asked``: it is known whether one fishes, ``fishing``: one does; each ``(1, h, w)`` float32
        of 0 and 1.
    """
    cells = {name: np.zeros((1, height, width), np.float32) for name in ("holds", "asked", "fishing")}
    vessel = (points.is_vessel == 1) & (points.confidence != "LOW")
    rows, cols = np.rint(points.row).astype(int) // stride, np.rint(points.column).astype(int) // stride
    vessel &= (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
    for name, mine in (
        ("holds", vessel),
        ("asked", vessel & ~np.isnan(points.is_fishing)),
        ("fishing", vessel & (points.is_fishing == 1)),
    ):
        cells[name][0, rows[mine], cols[mine]] = 1
    return cells


def _known(points: LabelTable) -> tuple[npt.NDArray[np.float64], ...]:
    # Vessel, fishing and metres, NaN where unknown.
    low = points.confidence == "LOW"
    is_vessel = np.where(low, np.nan, points.is_vessel)
    is_fishing = np.where(low | np.isnan(is_vessel), np.nan, points.is_fishing)
    # What is no vessel does not fish and has no length.
    is_fishing = np.where(is_vessel == 0, 0.0, is_fishing)
    metres = np.where(is_vessel == 0, 0.0, np.where(low, np.nan, points.vessel_length_m))
    return is_vessel, is_fishing, metres


def _setter(value: float) -> Callable[[Array, Array], Array]:
    return lambda old, mask: np.where(mask, value, old)


def _stamp(
    target: npt.NDArray[np.generic], row: int, col: int, stamp: Array, merge: Callable[[Array, Array], Array]
) -> None:
    radius = stamp.shape[0] // 2
    top, left = max(row - radius, 0), max(col - radius, 0)
    bottom, right = min(row + radius + 1, target.shape[0]), min(col + radius + 1, target.shape[1])
    if top >= bottom or left >= right:
        return
    part = stamp[top - row + radius : bottom - row + radius, left - col + radius : right - col + radius]
    target[top:bottom, left:right] = merge(target[top:bottom, left:right], part)


def center_radius(sigma: float) -> int:
    """Pixels around an object that its centre's Gaussian reaches."""
    return math.ceil(CENTER_REACH * sigma)


@cache
def _gaussian(sigma: float) -> npt.NDArray[np.uint8]:
    values = 255 * np.exp(-(_distance(center_radius(sigma)) ** 2) / (2 * sigma**2))
    return np.asarray(np.rint(values), np.uint8)


def _distance(radius: int) -> npt.NDArray[np.float64]:
    axis = np.arange(-radius, radius + 1)
    return np.hypot(axis[:, None], axis[None, :])


_DISC = {radius: _distance(radius) <= radius for radius in (DISC_RADIUS, IGNORE_RADIUS)}
