"""Files of points and polygons: which there are, and their one layer."""

import warnings
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely

from xt.errors import InputError, XTWarning

SUFFIXES = (".geojson", ".json", ".gpkg", ".shp", ".fgb")
FAULTS = pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, shapely.errors.ShapelyError, UnicodeEncodeError
"""What reading one may raise."""


def by_image(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Files of a folder that are each for the image of their name, by that name.

    Raises:
        InputError: If two are for the same image; names both.
    """
    files = sorted(each for each in folder.iterdir() if each.suffix.lower() in suffixes)
    found = {each.stem: each for each in files}
    if double := set(files) - set(found.values()):
        file = min(double)
        raise InputError(f"{file}: {found[file.stem].name} is for the same image; leave one of them")
    return found


def warn_of_strays(folder: Path, files: Iterable[str], images: Container[str], what: str) -> None:
    """Say which files of a folder are for no image, as one is that is not named as its image.

    Args:
        folder: That holds them.
        files: Names of the images that they are for.
        images: Names of those that there are.
        what: They hold.
    """
    strays = sorted(name for name in files if name not in images)
    if strays:
        text = f"{folder}: {len(strays)} files of {what} are for no image, such as {strays[0]}; name each as its image"
        warnings.warn(text, XTWarning, stacklevel=3)


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
