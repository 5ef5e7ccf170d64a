"""Shoreline files of xView3: object arrays of contours, read without running what a pickle asks for."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xt.errors import InputError
from xt.files import replacing

Contour = npt.NDArray[np.float64]
"""Points ``(N, 2)``: row, column in pixels."""

SUFFIX = "_shoreline.npy"
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_shoreline(path: Path) -> list[Contour]:
    """Read the contours of a ``*_shoreline.npy``.

    Raises:
        InputError: If the file cannot be read, or holds anything but arrays of points.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            if dtype.hasobject:
                items = np.asarray(_ArraysOnly(file).load(), dtype=object)
            else:
                items = np.fromfile(file, dtype=dtype).reshape(shape)
        if items.ndim != 1 and items.dtype != object:
            items = items[None] if items.ndim == 2 else items
        contours = [np.asarray(item, dtype=np.float64).reshape(-1, 2) for item in items]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, TypeError, EOFError, AttributeError, IndexError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: is not a shoreline file ({error})") from error
    return contours


def read_shorelines(folder: Path) -> dict[str, list[Contour]]:
    """Read the contours of all scenes that have a ``SCENE_shoreline.npy`` in a folder.

    Raises:
        InputError: If there is no such folder or a file cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; shorelines are files SCENE{SUFFIX}")
    return {path.name.removesuffix(SUFFIX): read_shoreline(path) for path in sorted(folder.glob(f"*{SUFFIX}"))}


def write_shoreline(path: Path, contours: Sequence[Contour]) -> None:
    """Write contours in the data set's own format; the file appears when it is complete.

    Raises:
        OutputError: If it cannot be written.
    """
    array = np.empty(len(contours), dtype=object)
    for index, contour in enumerate(contours):
        array[index] = np.asarray(contour, dtype=np.float64)
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, array, allow_pickle=True)
