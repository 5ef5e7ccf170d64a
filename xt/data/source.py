"""The one windowed reader: a raster file, or a scene folder with one GeoTIFF per band, as a model takes it.

Every data set and every prediction reads through it, so what training sees of a window is what prediction sees.
"""

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from xt.data import handles
from xt.data.address import stem
from xt.data.georeference import profile_of
from xt.data.geotiff import Mask, Pixels, check_bands, open_dataset, read_window, state_of
from xt.data.raster_info import describe
from xt.errors import InputError, XTWarning
from xt.geometry.grid import Window


@dataclass(frozen=True)
class InputSpec:
    """What a model takes.

    Attributes:
        bands: Names, in the order of the channels.
        mean: Per band, in the raster's unit.
        std: Per band, in the raster's unit.
        nodata: Value that is no data, or None.
        coarse: Bands of a scene folder that may be coarser or missing: they are brought to the grid of the first other
            band, do not decide what is valid, and are 0 where unknown. None, for models that do not tell: those whose
            raster has another size than the first band's.
    """

    bands: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    nodata: float | None = None
    coarse: tuple[str, ...] | None = ()


class Source:
    """Reads windows of an image.

    It holds no handle, so it may go to other threads and processes; each keeps its own open between windows
    (:mod:`xt.data.handles`) until :meth:`close`.

    A pixel is valid where every band that is read and lies on the grid is known: finite, no nodata value of file,
    model or user, not hidden by a mask or alpha. Of a raster of 8 bits one known band is enough
    (:func:`xt.data.geotiff.read_window`).

    Args:
        path: A raster, or a folder with ``BAND.tif`` for each band.
        inputs: Bands and statistics of the model.
        bands: 1-based bands of the raster; all by default.
        nodata: Value that is no data, beside what the file and the model say.
        complex_abs: Take complex samples by their absolute value.

    Attributes:
        height: Rows.
        width: Columns.
        indexes: Bands of the file that are read, 1-based.
        names: What the file calls its bands; empty for a folder.

    Raises:
        InputError: If the image does not fit the model.
    """

    def __init__(
        self,
        path: Path,
        inputs: InputSpec,
        bands: Sequence[int] | None = None,
        nodata: float | None = None,
        complex_abs: bool = False,
    ) -> None:
        self.path, self.inputs, self.complex_abs = path, inputs, complex_abs
        self.nodata = tuple(dict.fromkeys(value for value in (inputs.nodata, nodata) if value is not None))
        self.coarse: frozenset[str] = frozenset()
        self.names: tuple[str | None, ...] = ()
        if path.is_dir():
            if bands is not None:
                raise InputError(f"{path}: --bands is for one file; a folder has the bands {', '.join(inputs.bands)}")
            self.indexes: tuple[int, ...] = (1,)
            self._find_bands()
        else:
            self.files = {path.stem: path}
            with open_dataset(path, complex_abs=complex_abs) as dataset:
                info = describe(dataset)
                self.indexes, self.names = check_bands(info, len(inputs.bands), bands), info.names
                self.height, self.width = dataset.height, dataset.width
        self.before = self._state()

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def close(self) -> None:
        """Close this thread's handles; reading opens them again."""
        handles.close(set(self.files.values()))

    @property
    def name(self) -> str:
        """Name of the scene."""
        return stem(self.path)

    @property
    def origin(self) -> tuple[int, int]:
        """Row and column of its first pixel in the image that :attr:`name` names."""
        return 0, 0

    @property
    def strips(self) -> bool:
        """Whether a block of the first file is as wide as the image, so that a part of a row costs the whole."""
        return bool(self._dataset(self._grid_file()).block_shapes[0][1] >= self.width)

    def with_statistics(self, mean: Sequence[float], std: Sequence[float]) -> "Source":
        """Return the same source with other statistics."""
        other = copy(self)
        other.inputs = InputSpec(self.inputs.bands, tuple(mean), tuple(std), self.inputs.nodata, self.inputs.coarse)
        return other

    def read(self, window: Window, gain: float = 1.0) -> tuple[Pixels, Mask]:
        """Read a window as the model takes it.

        Args:
            window: May reach over the border; what lies outside is invalid.
            gain: Factor on the raw values, to augment them.

        Returns:
            ``(C, h, w)`` float32, ``(value − mean) / std`` and 0 where invalid, and ``(h, w)`` bool: what is valid.

        Raises:
            InputError: If pixels cannot be read.
        """
        pixels, known, valid = self.read_raw(window)
        if gain != 1:
            pixels *= np.float32(gain)
        mean, std = (np.asarray(each, np.float32)[:, None, None] for each in (self.inputs.mean, self.inputs.std))
        pixels -= mean  # in place: a crop of 4,096 px is 134 MB
        pixels /= std
        np.copyto(pixels, np.float32(0), where=~(known & valid))
        return pixels, valid

    def read_raw(self, window: Window) -> tuple[Pixels, Mask, Mask]:
        """Read a window in the raster's unit, for statistics.

        Args:
            window: May reach over the border.

        Returns:
            ``(C, h, w)`` float32, 0 where unknown; ``(C, h, w)`` bool: where each band is known; ``(h, w)`` bool: what
            is valid.

        Raises:
            InputError: If pixels cannot be read.
        """
        shape = (len(self.inputs.bands), window.height, window.width)
        pixels, known, valid = np.zeros(shape, np.float32), np.zeros(shape, bool), np.zeros(shape[1:], bool)
        inside = window.clip(self.height, self.width)
        if not inside.height or not inside.width:
            return pixels, known, valid
        place = Window(inside.row - window.row, inside.col - window.col, inside.height, inside.width).slices
        if not self.path.is_dir():
            pixels[:, *place], valid[place] = read_window(self._dataset(self.path), inside, self.indexes, self.nodata)
            known[:] = valid
            return pixels, known, valid
        valid[place] = True
        for index, band in enumerate(self.inputs.bands):
            if band not in self.files:
                continue
            dataset = self._on_grid(band) if band in self.coarse else self._dataset(self.files[band])
            values, mask = read_window(dataset, inside, (1,), self.nodata)
            pixels[index, *place], known[index, *place] = values[0], mask
            if band not in self.coarse:
                valid[place] &= mask
        return pixels, known, valid

    def profile(self) -> dict[str, Any]:
        """Grid of the image, to be copied: size, CRS, transform or else ground control points, RPCs.

        A transform goes before control points where a raster has both: it says that the grid has been mapped already.
        """
        return profile_of(self._dataset(self._grid_file()))

    def check_unchanged(self) -> None:
        """Compare size and time of the files with those at the start.

        Raises:
            InputError: If a file has changed meanwhile.
        """
        try:
            same = self._state() == self.before
        except (OSError, InputError):
            same = False
        if not same:
            raise InputError(f"{self.path}: has changed while it was read; run again")

    @property
    def fingerprint(self) -> list[tuple[Path, tuple[int, int]]]:
        """Files with size in bytes and time of change in nanoseconds, as they were at the start."""
        return list(zip(self.files.values(), self.before, strict=True))

    def _find_bands(self) -> None:
        odd = [band for band in self.inputs.bands if Path(band).name != band]
        if odd:
            raise InputError(f"{self.path}: band {odd[0]!r} of the model is no file name; give one raster instead")
        self.files = {band: self.path / f"{band}.tif" for band in self.inputs.bands}
        told = frozenset(self.inputs.coarse or ()) & set(self.inputs.bands)
        fine = [band for band in self.inputs.bands if band not in told]
        if not fine:
            raise InputError(f"{self.path}: every band of the model is coarse; none gives the grid")
        for band in sorted(told, key=self.inputs.bands.index):
            if not self.files[band].is_file():
                warnings.warn(f"{self.path}: no {band}.tif; that channel is 0", XTWarning, stacklevel=3)
                del self.files[band]
        sizes = {}
        for band, file in self.files.items():
            if not file.is_file():
                raise InputError(
                    f"{file}: no such file; a folder is one scene, with a file for each band, "
                    f"and several images are '{self.path}/*.tif'"
                )
            dataset = self._dataset(self.files[band])
            sizes[band] = (dataset.height, dataset.width)
        self.height, self.width = grid = sizes[fine[0]]
        others = {band for band in fine if sizes[band] != grid}
        if others and self.inputs.coarse is not None:
            band = min(others)
            raise InputError(
                f"{self.path}: {band} has {sizes[band][0]} × {sizes[band][1]} px, {fine[0]} {grid[0]} × {grid[1]}; "
                "they must be on one grid"
            )
        self.coarse = told | others
        for band in self.coarse & set(self.files):
            self._on_grid(band)

    def _grid_file(self) -> Path:
        return next(file for band, file in self.files.items() if band not in self.coarse)

    def _dataset(self, file: Path) -> Any:
        def opener(stack: ExitStack) -> Any:
            return handles.keep(stack, open_dataset(file, complex_abs=self.complex_abs))

        return handles.borrow(file, self.complex_abs, opener)

    def _on_grid(self, band: str) -> Any:
        """Return a coarse band as if it lay on the grid, bilinear."""
        grid = self._dataset(self._grid_file())
        crs, transform = grid.crs, grid.transform
        if crs is None or transform.is_identity:
            raise InputError(f"{self._grid_file()}: no CRS or transform, so {band}.tif cannot be brought to its grid")

        def opener(stack: ExitStack) -> Any:
            raster = handles.keep(stack, open_dataset(self.files[band], complex_abs=self.complex_abs))
            if raster.crs is None or raster.transform.is_identity:
                raise InputError(
                    f"{self.files[band]}: no CRS or transform, so it cannot be brought to the scene's grid"
                )
            return handles.keep(stack, _warped(raster, crs, transform, self.height, self.width, self.nodata))

        return handles.borrow(self.files[band], (tuple(transform), crs.to_wkt(), self.nodata), opener)

    def _state(self) -> list[tuple[int, int]]:
        return [state_of(file) for file in self.files.values()]


def _warped(raster: Any, crs: Any, transform: Any, height: int, width: int, nodata: Sequence[float]) -> Any:
    # Untagged nodata must not be mixed into its neighbours, and what lies beyond the raster must be told from data.
    missing = raster.nodata
    if missing is None:
        missing = next((value for value in nodata if _fits(value, raster.dtypes[0])), None)
    more = {"add_alpha": not describe(raster).alpha} if missing is None else {"src_nodata": missing, "nodata": missing}
    size = {"crs": crs, "transform": transform, "height": height, "width": width}
    return WarpedVRT(raster, resampling=Resampling.bilinear, **size, **more)


def _fits(value: float, dtype: str) -> bool:
    if not np.issubdtype(np.dtype(dtype), np.integer):
        return True
    return np.iinfo(dtype).min <= value <= np.iinfo(dtype).max and float(value).is_integer()
