"""From pixels to the coordinates of the map and back, by whatever georeference a raster has.

Of several the first counts: a transform, which says that the grid has been mapped already; ground control points, by a
thin-plate spline, which meets every one of them (a polynomial misses those of a real Sentinel-1 product by 94 m on
average); rational polynomials, at the height they are centred on, in WGS 84. Without any, pixels are the coordinates.
"""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.warp
from rasterio._err import CPLE_BaseError  # no public name
from rasterio.control import GroundControlPoint
from rasterio.transform import GCPTransformer, RPCTransformer

from xt.data.address import shown
from xt.errors import InputError, XTWarning

Floats = npt.NDArray[np.float64]
Profile = Mapping[str, Any]
"""What :func:`profile_of` gives."""
WGS84 = "EPSG:4326"
APART = 0.75
"""Pixels; half of one is what programs differ by that call a pixel a point."""


def profile_of(dataset: Any) -> dict[str, Any]:
    """Return the grid of an open raster: height, width, CRS, transform or else ground control points, RPCs."""
    gcps, gcp_crs = dataset.gcps
    profile: dict[str, Any] = {"height": dataset.height, "width": dataset.width, "crs": dataset.crs}
    if not dataset.transform.is_identity:
        profile["transform"] = dataset.transform
    elif gcps:
        profile |= {"gcps": gcps, "crs": gcp_crs}
    if dataset.rpcs is not None:
        profile["rpcs"] = dataset.rpcs
    return profile


def is_placed(profile: Profile) -> bool:
    """Whether a grid says where its pixels lie."""
    return any(profile.get(key) for key in ("transform", "gcps", "rpcs"))


def warn_without_place(path: Path, profile: Profile) -> None:
    """Say once that nobody can tell where on Earth a raster lies."""
    if not is_placed(profile):
        text = f"{path}: no georeference; coordinates are pixels, and the result has no georeference either"
        warnings.warn(text, XTWarning, stacklevel=2)
    elif map_crs(profile) is None:
        text = f"{path}: no CRS; coordinates are those of its grid, and the result has no CRS either"
        warnings.warn(text, XTWarning, stacklevel=2)


def check_places(path: Path, profile: Profile) -> None:
    """Make sure that pixels have places, before work that needs them.

    Raises:
        InputError: If control points or polynomials define no mapping; names the file.
    """
    try:
        to_map(np.array([profile["height"] / 2]), np.array([profile["width"] / 2]), profile)
    except InputError as error:
        raise InputError(f"{shown(path)}: {error}") from error


def to_map(row: Floats, column: Floats, profile: Profile) -> tuple[Floats, Floats]:
    """Bring centres of pixels to x and y of the map.

    Args:
        row: Rows; 0 is the middle of the first one.
        column: Columns, likewise.
        profile: Grid of the raster.

    Raises:
        InputError: If the control points or polynomials define no mapping.
    """
    rows, cols = np.asarray(row, np.float64) + 0.5, np.asarray(column, np.float64) + 0.5
    affine = profile.get("transform")
    if affine is not None:
        return affine.a * cols + affine.b * rows + affine.c, affine.d * cols + affine.e * rows + affine.f
    return _through(profile, "xy", rows, cols) or (cols, rows)


def to_pixels(x: Floats, y: Floats, profile: Profile) -> tuple[Floats, Floats]:
    """Bring x and y of the map to row and column, the inverse of :func:`to_map`.

    Raises:
        InputError: As :func:`to_map`.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    affine = profile.get("transform")
    if affine is not None:
        back = ~affine
        cols, rows = back.a * x + back.b * y + back.c, back.d * x + back.e * y + back.f
    else:
        rows, cols = _through(profile, "rowcol", x, y) or (y, x)
    return rows - 0.5, cols - 0.5


def project(start: Any, end: Any, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Bring coordinates of one CRS to another; infinite where there is no such place."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if start == end:
        return x, y
    try:
        there = rasterio.warp.transform(start, end, x, y)
    except CPLE_BaseError:  # one bad place fails them all
        if len(x) == 1:
            return np.full(1, np.inf), np.full(1, np.inf)
        half = len(x) // 2
        parts = [project(start, end, x[part], y[part]) for part in (slice(half), slice(half, None))]
        there = tuple(np.concatenate(each) for each in zip(*parts, strict=True))
    return np.asarray(there[0], np.float64), np.asarray(there[1], np.float64)


def check_same_grid(path: Path, profile: Profile, other: Path, of_other: Profile) -> None:
    """Make sure that two rasters, pixel by pixel, are of the same places; one that does not tell fits any.

    Args:
        path: The raster that is to fit.
        profile: Its grid.
        other: What it is laid on.
        of_other: The grid of that.

    Raises:
        InputError: If they are of different size, or of other places by more than three quarters of a pixel.
    """
    height, width = size = profile["height"], profile["width"]
    if size != (of_other["height"], of_other["width"]):
        theirs = f"{shown(other)} has {of_other['height']} × {of_other['width']}"
        raise InputError(f"{shown(path)}: {height} × {width} px, {theirs}; they must be on one grid")
    own, theirs = map_crs(profile), map_crs(of_other)
    if not (own and theirs and is_placed(profile) and is_placed(of_other)):
        return
    rows, cols = np.array([0.0, 0.0, height]) - 0.5, np.array([0.0, width, 0.0]) - 0.5
    x, y = project(own, theirs, *to_map(rows, cols, profile))
    start, right, down = (np.stack(to_map(rows + i, cols + j, of_other)) for i, j in ((0, 0), (0, 1), (1, 0)))
    off = np.stack([x, y]) - start
    if theirs.is_geographic:
        off[0] = (off[0] + 180) % 360 - 180
    steps = np.stack([right - start, down - start]).transpose(2, 1, 0)
    flat = (np.linalg.matrix_rank(steps) < 2).any()  # its pixels have no extent
    apart = math.inf if flat else np.linalg.norm(np.linalg.solve(steps, off.T[..., None]), axis=1).max()
    if not apart <= APART:
        why = "another CRS than" if own != theirs else f"up to {apart:.3g} pixels away from"
        raise InputError(f"{shown(path)}: {why} {shown(other)}; warp it to that grid")


def turns(profile: Profile) -> tuple[float, ...]:
    """Degrees to add to longitudes where a raster in degrees reaches beyond the antimeridian.

    Beyond it others count from the other side: 180.1 is −179.9 to them.
    """
    crs = map_crs(profile)
    if crs is None or not crs.is_geographic:
        return ()
    rows, cols = np.meshgrid(*([-0.5, side - 0.5] for side in (profile["height"], profile["width"])))
    x, _ = to_map(rows.ravel(), cols.ravel(), profile)
    return tuple(turn for turn, beyond in ((360.0, x.max() > 180), (-360.0, x.min() < -180)) if beyond)


def map_crs(profile: Profile) -> Any:
    """Return the CRS that :func:`to_map` gives coordinates in, or None."""
    mapped = "transform" in profile or profile.get("gcps")
    return rasterio.CRS.from_string(WGS84) if profile.get("rpcs") and not mapped else profile.get("crs")


def _through(profile: Profile, way: str, first: Floats, second: Floats) -> tuple[Floats, Floats] | None:
    gcps, rpcs = profile.get("gcps"), profile.get("rpcs")
    if not gcps and rpcs is None:
        return None
    if not len(first):
        return first, second
    # rowcol rounds down unless told otherwise.
    more: dict[str, Any] = {"offset": "ul"} if way == "xy" else {"op": np.asarray}
    if rpcs is not None and not gcps:
        more["zs"] = np.full(len(first), rpcs.height_off)
    if gcps and map_crs(profile) is not None and map_crs(profile).is_geographic:
        gcps = _untorn(gcps)
    try:
        if gcps:
            _check_spread(gcps)
        with GCPTransformer(gcps, tps=True) if gcps else RPCTransformer(rpcs) as transformer:
            a, b = getattr(transformer, way)(first, second, **more)
    except (ValueError, rasterio.errors.RasterioError, CPLE_BaseError) as error:
        what = f"{len(gcps)} ground control points" if gcps else "rational polynomials"
        raise InputError(
            f"its {what} give no place on the map ({error}); mend them, or remove the georeference"
        ) from error
    return np.asarray(a, np.float64), np.asarray(b, np.float64)


def _check_spread(gcps: list[GroundControlPoint]) -> None:
    """Refuse points that do not tell where all pixels lie, of which the spline would make up something."""
    for places in ([(point.row, point.col) for point in gcps], [(point.x, point.y) for point in gcps]):
        if np.linalg.matrix_rank(np.array(places) - places[0]) < 2:
            raise ValueError("they lie on one line")


def _untorn(gcps: list[GroundControlPoint]) -> list[GroundControlPoint]:
    """Count longitudes on from 180 where control points lie on both sides of the antimeridian."""
    longitudes = np.array([point.x for point in gcps])
    if not np.ptp(longitudes) > 180 >= np.ptp(longitudes % 360):
        return gcps
    return [GroundControlPoint(**point.asdict() | {"x": point.x % 360}) for point in gcps]
