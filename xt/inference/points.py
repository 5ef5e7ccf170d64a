"""Writes points as layers for programs of maps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from xt.data.georeference import map_crs, to_map
from xt.data.labels import CLASS, LabelTable
from xt.inference.layers import decimals, write_layer

COLUMNS = ("row", "column", "scene_id", "is_vessel", "is_fishing", "vessel_length_m", "score")
OF_CLASSES = ("row", "column", "scene_id", "label", "score")


def in_scene(table: LabelTable, origin: tuple[int, int]) -> LabelTable:
    """Points of a part of a scene, counted from the first pixel of the scene, which their ``scene_id`` names."""
    return replace(table, row=table.row + origin[0], column=table.column + origin[1])


def write_points(
    path: Path, table: LabelTable, profile: dict[str, Any], of_classes: bool = False, origin: tuple[int, int] = (0, 0)
) -> None:
    """Write points into a partial of :mod:`xt.files`, as :func:`~xt.inference.layers.write_layer` does.

    Args:
        path: File to write; must not exist.
        table: Points in pixels.
        profile: Grid of the raster; :mod:`xt.data.georeference` says which of its parts count.
        of_classes: With the class of each object instead of vessel, fishing and length.
        origin: Of the raster in the scene, from where the fields ``row`` and ``column`` count.

    Raises:
        OSError: If it cannot be written.
    """
    counted = in_scene(table, origin)
    columns = {name: np.asarray(getattr(counted, name)) for name in (OF_CLASSES if of_classes else COLUMNS)}
    columns = {CLASS if name == "label" else name: values for name, values in columns.items()}
    columns |= {name: values.astype(object) for name, values in columns.items() if values.dtype.kind == "U"}
    points = shapely.points(*to_map(table.row, table.column, profile))
    write_layer(path, np.asarray(points, object), columns, "Point", "points", map_crs(profile), decimals(profile))
