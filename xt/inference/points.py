"""Writes points as GeoPackage."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import rasterio.transform
import shapely

from xt.data.labels import LabelTable


def map_coordinates(table: LabelTable, profile: dict[str, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Bring row and column (centres of pixels) to x and y of the grid.

    Through the full affine transform, or through the ground control points; in pixels where there are neither.
    """
    rows, cols = table.row + 0.5, table.column + 0.5
    if profile.get("gcps"):
        if not len(table):
            return cols, rows
        with rasterio.transform.GCPTransformer(profile["gcps"]) as transformer:
            x, y = transformer.xy(rows, cols, offset="ul")
        return np.asarray(x), np.asarray(y)
    affine = profile.get("transform")
    if affine is None:
        return cols, rows
    return affine.a * cols + affine.b * rows + affine.c, affine.d * cols + affine.e * rows + affine.f


def write_geopackage(path: Path, table: LabelTable, profile: dict[str, Any]) -> None:
    """Write a layer ``points`` into a partial of :mod:`xt.files`.

    Args:
        path: File to write; must not exist.
        table: Points in pixels.
        profile: Grid: ``transform`` or ``gcps``, and ``crs``.

    Raises:
        OSError: If it cannot be written.
    """
    x, y = map_coordinates(table, profile)
    names = ["row", "column", "scene_id", "is_vessel", "is_fishing", "vessel_length_m", "score"]
    columns = [np.asarray(getattr(table, name)) for name in names]
    columns[2] = columns[2].astype(object)
    crs = profile.get("crs")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # no CRS: said once by the command
            pyogrio.raw.write(
                str(path),
                geometry=shapely.to_wkb(shapely.points(x, y)) if len(table) else np.zeros(0, object),
                field_data=columns,
                fields=names,
                geometry_type="Point",
                crs=crs.to_wkt() if crs else None,
                driver="GPKG",
                layer="points",
            )
    except pyogrio.errors.DataSourceError as error:
        raise OSError(str(error)) from error
