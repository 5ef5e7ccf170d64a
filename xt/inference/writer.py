"""Writes a GeoTIFF in bands of rows: each block once."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from xt.data.geotiff import CACHE_BYTES
from xt.errors import OutputError
from xt.tasks.base import Product


class BandWriter:
    """Takes rows from top to bottom and writes whole rows of blocks.

    The file is complete when the block that it is used in (``with``) ends.

    Args:
        path: Final name, for messages.
        partial: File to write.
        profile: Grid of the output.
        product: Bands, their type and nodata.
        settings: Of :func:`rasterio.open`: driver and creation options.
    """

    def __init__(
        self,
        path: Path,
        partial: Path,
        profile: dict[str, Any],
        product: Product,
        settings: dict[str, Any],
    ) -> None:
        self.path, self.partial = path, partial
        self.height = profile["height"]
        settings = settings | profile | {
            "count": len(product.names), "dtype": product.dtype, "nodata": product.nodata,
        }  # fmt: skip
        with self._explained(), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            self._env = rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES)
            with self._env:
                self._out = rasterio.open(self.partial, "w", **settings)
        self._block: int = self._out.block_shapes[0][0]
        for index, name in enumerate(product.names, start=1):
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
        ready = self._rows if total >= self.height else total // self._block * self._block - self._written
        if ready > 0:
            joined = np.concatenate(self._pending, axis=1)
            place = ((self._written, self._written + ready), (0, joined.shape[2]))
            with self._explained():
                self._out.write(joined[:, :ready], window=place)
            self._pending, self._rows, self._written = [joined[:, ready:]], self._rows - ready, self._written + ready

    def __enter__(self) -> "BandWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is not None:
            with suppress(RasterioError, OSError):
                self._out.close()
            return
        assert self._written == self.height, (self._written, self.height)
        with self._explained():
            self._out.close()
            with rasterio.open(self.partial) as done:
                done.checksum(1, window=((max(self.height - 1, 0), self.height), (0, done.width)))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (RasterioError, OSError) as error:
            raise OutputError(
                f"{self.path} cannot be written: {error.__cause__ or error}; free space or check rights"
            ) from error
