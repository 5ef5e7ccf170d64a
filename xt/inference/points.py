"""Writes points as GeoPackage."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely

from xt.data.georeference import map_crs, to_map
from xt.data.labels import LabelTable


def write_geopackage(path: Path, table: LabelTable, profile: dict[str, Any]) -> None:
    """Write a layer ``points`` into a partial of :mod:`xt.files`.

    Args:
        path: File to write; must not exist.
        table: Points in pixels.
        profile: Grid of the raster; :mod:`xt.data.georeference` says which of its parts count.

    Raises:
        OSError: If it cannot be written.
    """
    x, y = to_map(table.row, table.column, profile)
    names = ["row", "column", "scene_id", "is_vessel", "is_fishing", "vessel_length_m", "score"]
    columns = [np.asarray(getattr(table, name)) for name in names]
    columns[2] = columns[2].astype(object)
    crs = map_crs(profile)
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
