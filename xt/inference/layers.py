"""Writes layers for programs of maps: GeoPackage, and GeoJSON."""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyogrio
import shapely

from xt.data.georeference import WGS84, map_crs, project, to_map

DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON"}
"""By suffix."""
DIGITS, MOST_DIGITS = 7, 12
"""Behind the point of a degree: what RFC 7946 means, a centimetre, and what a float of 180 degrees has."""
SHAPES_AT_ONCE = 1024
"""Copied from one file to another."""


def write_layer(
    path: Path,
    shapes: npt.NDArray[Any],
    columns: Mapping[str, npt.NDArray[Any]],
    kind: Literal["Point", "Polygon"],
    name: str,
    crs: Any,
    digits: int = DIGITS,
    append: bool = False,
) -> None:
    """Write shapes into a partial of :mod:`xt.files`; the suffix says how.

    A GeoPackage has the CRS of the shapes. A GeoJSON has longitude and latitude, as its standard (RFC 7946) demands,
    and is cut at the antimeridian. Without a CRS that says where on Earth they lie, both have the coordinates given.

    Args:
        path: File to write; must not exist, or, to append, be a GeoPackage that this function wrote.
        shapes: Geometries of shapely.
        columns: Values of each by name; NaN and None are nothing.
        kind: Of the shapes.
        name: Of the layer.
        crs: Of the coordinates, or None.
        digits: Of longitude and latitude in a GeoJSON, behind the point (:func:`decimals`).
        append: Add to the layer that is there.

    Raises:
        OSError: If it cannot be written.
    """
    with _explained():
        pyogrio.raw.write(
            str(path),
            geometry=shapely.to_wkb(shapes),
            field_data=list(columns.values()),
            fields=list(columns),
            geometry_type=kind,
            layer=name,
            append=append,
            **_format(path, crs, digits),
        )


def copy_layer(
    source: Path, path: Path, kind: Literal["Point", "Polygon"], name: str, crs: Any, digits: int = DIGITS
) -> None:
    """Write a GeoPackage of :func:`write_layer` in the format of another suffix, without reading all of it.

    Args:
        source: The GeoPackage.
        path: File to write; must not exist.
        kind: Of the shapes.
        name: Of the layer.
        crs: Of the coordinates, or None.
        digits: As in :func:`write_layer`.

    Raises:
        OSError: If it cannot be written.
    """
    with (
        _explained(),
        pyogrio.raw.open_arrow(str(source), use_pyarrow=False, batch_size=SHAPES_AT_ONCE) as (facts, stream),
    ):
        pyogrio.raw.write_arrow(
            stream,
            str(path),
            geometry_name=facts["geometry_name"],
            geometry_type=kind,
            layer=name,
            **_format(path, crs, digits),
        )


def is_on_earth(crs: Any) -> bool:
    """Whether a CRS leads to longitude and latitude."""
    return crs is not None and bool(crs.is_geographic or crs.is_projected)


def decimals(profile: Mapping[str, Any]) -> int:
    """How many digits behind the point tell a hundredth of a raster's pixel in degrees, and at least those usual."""
    crs = map_crs(profile)
    if not is_on_earth(crs):
        return DIGITS
    rows, cols = np.full(2, profile["height"] / 2), profile["width"] / 2 + np.arange(2)
    x, y = project(crs, WGS84, *to_map(rows, cols, profile))
    side = math.hypot(*np.diff(x), *np.diff(y))
    return max(DIGITS, min(MOST_DIGITS, math.ceil(-math.log10(side / 100)))) if 0 < side < math.inf else DIGITS


def _format(path: Path, crs: Any, digits: int) -> dict[str, Any]:
    driver = DRIVERS[path.suffix.lower()]
    if driver == "GPKG":
        return {"driver": driver, "crs": crs.to_wkt() if crs else None}
    known = is_on_earth(crs)  # of another CRS the driver knows no way to longitudes
    return {
        "driver": driver,
        "crs": crs.to_wkt() if known else None,
        "layer_options": {"RFC7946": "YES", "COORDINATE_PRECISION": str(digits)} if known else {},
    }


@contextmanager
def _explained() -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # no CRS: said once by the command
            yield
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, pyogrio.errors.FeatureError) as error:
        raise OSError(str(error)) from error
