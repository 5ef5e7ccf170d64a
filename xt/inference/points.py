"""Writes points as layers for programs of maps."""

from pathlib import Path
from typing import Any

import numpy as np
import shapely

from xt.data.georeference import map_crs, to_map
from xt.data.labels import CLASS, LabelTable
from xt.inference.layers import write_layer

COLUMNS = ("row", "column", "scene_id", "is_vessel", "is_fishing", "vessel_length_m", "score")
OF_CLASSES = ("row", "column", "scene_id", "label", "score")


def write_points(path: Path, table: LabelTable, profile: dict[str, Any], of_classes: bool = False) -> None:
    """Write points into a partial of :mod:`xt.files`, as :func:`~xt.inference.layers.write_layer` does.

    Args:
        path: File to write; must not exist.
        table: Points in pixels.
        profile: Grid of the raster; :mod:`xt.data.georeference` says which of its parts count.
        of_classes: With the class of each object instead of vessel, fishing and length.

    Raises:
        OSError: If it cannot be written.
    """
    columns = {name: np.asarray(getattr(table, name)) for name in (OF_CLASSES if of_classes else COLUMNS)}
    columns = {CLASS if name == "label" else name: values for name, values in columns.items()}
    columns |= {name: values.astype(object) for name, values in columns.items() if values.dtype.kind == "U"}
    points = shapely.points(*to_map(table.row, table.column, profile))
    write_layer(path, np.asarray(points, object), columns, "Point", "points", map_crs(profile))
