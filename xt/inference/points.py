"""Writes points as layers for programs of maps: GeoPackage, and GeoJSON."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import rasterio.warp
import shapely

from xt.data.georeference import WGS84, map_crs, to_map
from xt.data.labels import LabelTable

DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON"}


def write_layer(path: Path, table: LabelTable, profile: dict[str, Any]) -> None:
    """Write points into a partial of :mod:`xt.files`; the suffix says how.

    A GeoPackage has the image's CRS. A GeoJSON has longitude and latitude, as its standard demands; of an image without
    a CRS the coordinates of both are those of its map, or pixels.

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
    crs, options = map_crs(profile), {}
    if path.suffix == ".geojson" and crs is not None:
        x, y = (np.asarray(each) for each in rasterio.warp.transform(crs, WGS84, x, y))
        crs, options = rasterio.CRS.from_string(WGS84), {"RFC7946": "YES"}
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
                driver=DRIVERS[path.suffix],
                layer="points",
                layer_options=options,
            )
    except (pyogrio.errors.DataSourceError, pyogrio.errors.FeatureError) as error:
        raise OSError(str(error)) from error
