"""Small maps of classes for ``xt vectorize``."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.transform import Affine
from small_inputs import raster

SHEARED = Affine(9.0, 2.0, 500_000.0, -3.0, -8.0, 6_000_000.0)
UTM = {"crs": "EPSG:32632", "transform": SHEARED}
NAMES = {"CLASS_0": "sea", "CLASS_1": "land", "CLASS_2": "ice"}


def classes(height: int = 70, width: int = 90, num: int = 3, seed: int = 0) -> npt.NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, num, (-(-height // 4), -(-width // 4)), dtype=np.uint8)
    return np.kron(coarse, np.ones((4, 4), np.uint8))[:height, :width]


def named(path: Path, array: npt.NDArray[Any], **options: Any) -> Path:
    raster(path, array[None], **options)
    with rasterio.open(path, "r+") as out:
        out.update_tags(1, **NAMES)
    return path
