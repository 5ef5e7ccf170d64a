"""Writes a GeoTIFF in bands of rows: each block once, under a hidden name until it is complete."""

import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from xt.data.geotiff import CACHE_BYTES
from xt.errors import OutputError

BLOCK = 512


def check_output(path: Path, overwrite: bool, needed: int) -> None:
    """Find out before the work whether an output can be written.

    Raises:
        OutputError: If it exists, its folder is missing or not writable, or the disk is too full.
    """
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists; --overwrite replaces it")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: no right to write in {path.parent}")
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise OutputError(f"{path} needs up to {needed >> 20} MiB, {free >> 20} MiB are free; free space first")


class BandWriter:
    """Takes rows from top to bottom and writes whole rows of blocks.

    Args:
        path: Final name.
        profile: Grid of the output.
        count: Bands.
        dtype: Sample type.
        nodata: Value of invalid pixels.
        names: Descriptions of the bands.
        options: Creation options of GDAL.
    """

    def __init__(
        self,
        path: Path,
        profile: dict[str, Any],
        count: int,
        dtype: str,
        nodata: float,
        names: tuple[str, ...],
        options: dict[str, str],
    ) -> None:
        self.path, self.partial = path, path.with_name(f".{path.stem}.partial.tif")
        self.height = profile["height"]
        settings: dict[str, Any] = {
            "driver": "GTiff", "count": count, "dtype": dtype, "nodata": nodata, "tiled": True, "blockxsize": BLOCK,
            "blockysize": BLOCK, "compress": "deflate", "bigtiff": "if_safer",
        }  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            self._env = rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES)
            with self._env:
                self._out = rasterio.open(self.partial, "w", **settings | profile | options)
        for index, name in enumerate(names, start=1):
            self._out.set_band_description(index, name)
        self._pending: list[npt.NDArray[Any]] = []
        self._rows, self._written = 0, 0

    def write(self, rows: npt.NDArray[Any]) -> None:
        """Append rows ``(count, h, width)``.

        Raises:
            OutputError: If the disk is full or the file cannot be written.
        """
        self._pending.append(rows)
        self._rows += rows.shape[1]
        total = self._written + self._rows
        ready = self._rows if total >= self.height else total // BLOCK * BLOCK - self._written
        if ready > 0:
            joined = np.concatenate(self._pending, axis=1)
            place = ((self._written, self._written + ready), (0, joined.shape[2]))
            try:
                self._out.write(joined[:, :ready], window=place)
            except (RasterioError, OSError) as error:
                raise OutputError(f"{self.path}: cannot be written ({error.__cause__ or error})") from error
            self._pending, self._rows, self._written = [joined[:, ready:]], self._rows - ready, self._written + ready

    def close(self) -> None:
        """Finish the file without giving it its name yet; it can be read under ``partial``."""
        assert self._written == self.height, (self._written, self.height)
        try:
            self._out.close()
            with rasterio.open(self.partial) as done:
                done.checksum(1, window=((max(self.height - 1, 0), self.height), (0, done.width)))
        except (RasterioError, OSError) as error:
            raise OutputError(f"{self.path}: cannot be written ({error.__cause__ or error})") from error

    def publish(self) -> None:
        """Give the complete file its name."""
        with self.partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(self.partial, self.path)

    def discard(self) -> None:
        """Remove what was written."""
        self._out.close()
        self.partial.unlink(missing_ok=True)
