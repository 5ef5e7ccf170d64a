"""Files of points and polygons: which there are, and their one layer."""

from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely

from xt.errors import InputError

SUFFIXES = (".geojson", ".json", ".gpkg", ".shp")
FAULTS = pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, shapely.errors.ShapelyError, UnicodeEncodeError
"""What reading one may raise."""


def only_layer(path: Path) -> str:
    """Name of the layer with shapes, beside which a file may hold tables such as styles; else of the first.

    Raises:
        InputError: If there are several.
        DataSourceError: If the file cannot be read.
    """
    layers = pyogrio.list_layers(path)
    shaped = [str(name) for name, kind in layers if kind is not None]
    if len(shaped) > 1:
        names = ", ".join(shaped[:5])
        raise InputError(
            f"{path}: holds {len(shaped)} layers ({names}); save the one that is meant as a file of its own"
        )
    return shaped[0] if shaped else str(layers[0][0])


def as_text(value: Any) -> str:
    """A value of a column as a CSV would hold it: empty for none, and whole numbers without a point.

    Columns of whole numbers are read as fractions where one is empty.
    """
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else str(int(value)) if value.is_integer() else str(value)
    return "" if value is None else str(value)
