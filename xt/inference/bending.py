"""Corners for edges that are straight in the pixels of a raster and bent on the map."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import shapely

from xt.data.georeference import Floats

Place = Callable[[Floats], Floats]
"""Brings ``(n, 2)`` columns and rows to ``(n, 2)`` coordinates."""
TOLERANCE = 0.02
"""Pixels that the middle of an edge may lie from where it is drawn."""
SHORTEST = 2.0
"""Edges up to so many pixels are left as they are."""


def bent(shapes: npt.NDArray[np.object_], place: Place, in_degrees: bool) -> npt.NDArray[np.object_]:
    """Halve the edges of polygons until each is on the map where it is in the raster.

    Each edge is judged by itself, so that neighbours get the same corners where they share one.

    Args:
        shapes: Polygons in pixels.
        place: From pixels to the coordinates in which straight edges are drawn.
        in_degrees: Whether these are longitude and latitude, and may jump at the antimeridian.

    Returns:
        The polygons in pixels, with more corners.
    """
    if not len(shapes):
        return shapes
    kind, corners, (of_rings, of_polygons) = shapely.to_ragged_array(shapes)
    on_map = place(corners)
    open_ = np.ones(max(len(corners) - 1, 0), bool)  # edge i leads from corner i to corner i + 1
    open_[of_rings[1:-1] - 1] = False
    while True:
        sides = np.diff(corners, axis=0)
        length = np.hypot(*sides.T)
        at = np.flatnonzero(open_ & (length > SHORTEST))
        if not len(at):
            break
        middle = (corners[at] + corners[at + 1]) / 2
        found = place(middle)
        off = _apart(on_map[at], on_map[at + 1], found, in_degrees) * length[at]
        halved = off > TOLERANCE
        at, middle, found = at[halved], middle[halved], found[halved]
        corners, on_map = (np.insert(a, at + 1, b, axis=0) for a, b in ((corners, middle), (on_map, found)))
        new = np.zeros(len(corners) - 1, bool)
        places = at + np.arange(len(at))  # where the halves of an edge come to lie
        new[places] = new[places + 1] = True
        open_ = new
        of_rings = of_rings + np.searchsorted(at + 1, of_rings)
    return np.asarray(shapely.from_ragged_array(kind, corners, (of_rings, of_polygons)), object)


def _apart(start: Floats, end: Floats, middle: Floats, in_degrees: bool) -> Floats:
    """How far middles lie from their edges, as shares of the edges; 0 where that cannot be told."""
    side, half = end - start, middle - start
    if in_degrees:
        side[:, 0], half[:, 0] = ((each[:, 0] + 180) % 360 - 180 for each in (side, half))
        scale = np.cos(np.radians(middle[:, 1]))
        side[:, 0] *= scale
        half[:, 0] *= scale
    with np.errstate(invalid="ignore", divide="ignore"):
        off = np.hypot(*(half - side / 2).T) / np.hypot(*side.T)
    return np.where(np.isfinite(off), off, 0.0)
