"""Small rasters and data sets in which training and prediction meet."""

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import Affine

GRID = Affine(10, 0, 500_000, 0, -10, 6_000_000)
COARSE = Affine(50, 0, 500_000, 0, -50, 6_000_000)
UTM = "EPSG:32632"


def write(path: Path, array: np.ndarray, **options: Any) -> Path:
    """Write ``(C, h, w)`` or ``(h, w)``; ``mask`` is written too."""
    array = array if array.ndim == 3 else array[None]
    mask, alpha = options.pop("mask", None), options.pop("alpha_band", None)
    profile = {
        "driver": "GTiff",
        "count": array.shape[0],
        "height": array.shape[1],
        "width": array.shape[2],
        "dtype": array.dtype.name,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **profile | options) as out:
        if alpha is not None:
            out.colorinterp = [
                rasterio.enums.ColorInterp.alpha if i == alpha else rasterio.enums.ColorInterp.undefined
                for i in out.indexes
            ]
        out.write(array)
        if mask is not None:
            out.write_mask(mask)
    return path


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(50, 30, shape).astype(np.float32)
