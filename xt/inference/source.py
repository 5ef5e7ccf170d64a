"""What is predicted on: a GeoTIFF, or a scene folder with one GeoTIFF per band."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xt.data.geotiff import PLAIN, Mask, Pixels, check_bands, describe, open_raster, read_window
from xt.errors import InputError
from xt.geometry.grid import Window
from xt.models.metadata import ModelMetadata


class Source:
    """Reads windows of an image as a model takes them.

    Args:
        path: A raster, or a folder with one raster for each band of the model.
        metadata: Bands and statistics of the model.
        bands: 1-based bands of the raster; all by default.
        nodata: Value that is no data, beside what the file says.
        complex_abs: Take complex samples by their absolute value.

    Raises:
        InputError: If the image does not fit the model.
    """

    def __init__(
        self,
        path: Path,
        metadata: ModelMetadata,
        bands: Sequence[int] | None = None,
        nodata: float | None = None,
        complex_abs: bool = False,
    ) -> None:
        self.path, self.nodata, self.complex_abs = path, nodata, complex_abs
        self.mean = np.asarray(metadata.mean, np.float32)[:, None, None]
        self.std = np.asarray(metadata.std, np.float32)[:, None, None]
        if path.is_dir():
            self.files = [path / f"{band}.tif" for band in metadata.bands]
            self.bands: tuple[int, ...] | None = (1,)
            if bands is not None:
                raise InputError(f"{path}: --bands is for one file; a folder has the bands {', '.join(metadata.bands)}")
        else:
            self.files, self.bands = [path], None
        sizes = []
        for file in self.files:
            with open_raster(file, PLAIN, complex_abs=complex_abs) as dataset:
                sizes.append((dataset.height, dataset.width))
                if self.bands is None:
                    self.bands = check_bands(describe(dataset), len(metadata.bands), bands)
        if len(set(sizes)) > 1:
            raise InputError(f"{path}: its bands differ in size: {sizes}")
        self.height, self.width = sizes[0]
        self.before = self._state()

    @property
    def name(self) -> str:
        """Name of the scene."""
        return self.path.name if self.path.is_dir() else self.path.stem

    def read(self, window: Window) -> tuple[Pixels, Mask]:
        """Read a window inside the image: ``(C, h, w)`` normalised, 0 where invalid, and what is valid."""
        parts = []
        for file in self.files:
            with open_raster(file, PLAIN, complex_abs=self.complex_abs) as dataset:
                parts.append(read_window(dataset, window, self.bands, self.nodata))
        valid = np.logical_and.reduce([mask for _, mask in parts])
        pixels = np.concatenate([values for values, _ in parts])
        return np.where(valid, (pixels - self.mean) / self.std, 0).astype(np.float32), valid

    def profile(self) -> dict[str, Any]:
        """Grid of the image, to be copied: size, CRS, transform, ground control points, RPCs."""
        with open_raster(self.files[0], PLAIN, complex_abs=self.complex_abs) as dataset:
            gcps, gcp_crs = dataset.gcps
            profile: dict[str, Any] = {"height": self.height, "width": self.width}
            if gcps:
                profile |= {"gcps": gcps, "crs": gcp_crs}
            else:
                profile["crs"] = dataset.crs
                if not dataset.transform.is_identity:
                    profile["transform"] = dataset.transform
            if dataset.rpcs is not None:
                profile["rpcs"] = dataset.rpcs
        return profile

    def check_unchanged(self) -> None:
        """Compare size and time of the files with those at the start.

        Raises:
            InputError: If a file has changed meanwhile.
        """
        try:
            same = self._state() == self.before
        except OSError:
            same = False
        if not same:
            raise InputError(f"{self.path}: has changed while it was read; run again")

    def _state(self) -> list[tuple[int, int]]:
        return [(os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in self.files]
