"""The only place that opens rasters: which files are taken, what is valid, and how windows are read.

A handle belongs to one process and one thread: shared handles return wrong pixels silently (rasterio 1.4.4). Those
that stay open between windows are kept by :mod:`xt.data.handles`.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import ColorInterp, MaskFlags, PhotometricInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError

from xt.data.sidecars import check_overviews, has_sidecars
from xt.errors import InputError
from xt.geometry.grid import Window

Purpose = Literal["image", "label"]
GEOTIFF = ("GTiff",)
PLAIN = ("GTiff", "PNG", "JPEG")
MAX_BLOCK_BYTES = 256 << 20
MAX_EXPANSION = 5000
CACHE_BYTES = 256 << 20

Pixels = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RasterInfo:
    """What is known of a raster before any pixel is read.

    Attributes:
        path: The file.
        driver: GDAL's name of the format.
        height: Rows.
        width: Columns.
        bands: Bands that hold an image; an alpha band is not among them.
        alpha: 1-based index of the alpha band, or None.
        dtype: Sample type.
        nodata: Nodata value of the tag, or None.
        crs: WKT, or None.
        transform: Six affine coefficients (a, b, c, d, e, f), or None without georeference.
        num_gcps: Ground control points.
        has_rpcs: Whether rational polynomial coefficients are there.
        block: Rows and columns of a block.
        compression: Name, or None.
        colours: Colour interpretation of each band.
        has_mask: Whether a mask band or file says what is valid.
    """

    path: str
    driver: str
    height: int
    width: int
    bands: tuple[int, ...]
    alpha: int | None
    dtype: str
    nodata: float | None
    crs: str | None
    transform: tuple[float, ...] | None
    num_gcps: int
    has_rpcs: bool
    block: tuple[int, int]
    compression: str | None
    colours: tuple[str, ...]
    has_mask: bool

    @property
    def notes(self) -> list[str]:
        """What a user should know before a model runs on it."""
        found = []
        if self.num_gcps and self.transform is None:
            found.append(f"{self.num_gcps} ground control points and no transform: copied, and used for points")
        elif self.transform is None:
            found.append("no georeference: results are in pixels")
        elif self.crs is None:
            found.append("no CRS: the result has none either")
        if self.nodata is None and self.alpha is None and not self.has_mask:
            found.append("nothing marks missing pixels: give --nodata VALUE if a border is not data")
        if self.dtype.startswith("complex"):
            found.append("complex samples: only their absolute value can be used (--complex abs)")
        return found


@contextmanager
def open_raster(
    path: Path | str, drivers: Sequence[str] = GEOTIFF, purpose: Purpose = "image", complex_abs: bool = False
) -> Iterator[Any]:
    """Open a raster after checking that it can be read safely.

    Args:
        path: A local file.
        drivers: Formats that are taken; a VRT behind ``.tif`` is none of them.
        purpose: ``"label"`` takes palettes and 1-bit rasters too.
        complex_abs: Take complex samples; their absolute value is read.

    Yields:
        A rasterio dataset. It must stay in this process and thread.

    Raises:
        InputError: If the file is missing, of another format, a decompression bomb, or not fit for the purpose.
    """
    with open_dataset(path, drivers, purpose, complex_abs) as dataset, rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
        yield dataset


def open_dataset(
    path: Path | str, drivers: Sequence[str] = GEOTIFF, purpose: Purpose = "image", complex_abs: bool = False
) -> Any:
    """Open a raster as :func:`open_raster` does; the caller closes it.

    Raises:
        InputError: As :func:`open_raster`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    listing = "FALSE" if has_sidecars(path) else "EMPTY_DIR"
    with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES, GDAL_DISABLE_READDIR_ON_OPEN=listing):
        dataset = _open(path, drivers)
        try:
            check_overviews(dataset, path)
            _check(dataset, path, purpose, complex_abs)
            _alpha(dataset)
            _ = dataset.mask_flag_enums  # a mask beside the file is looked for now
        except BaseException:
            dataset.close()
            raise
        return dataset


def inspect(path: Path | str, drivers: Sequence[str] = GEOTIFF) -> RasterInfo:
    """Describe a raster without reading a pixel.

    Raises:
        InputError: As :func:`open_raster`.
    """
    with open_raster(path, drivers, purpose="label", complex_abs=True) as dataset:
        return describe(dataset)


def describe(dataset: Any) -> RasterInfo:
    """Describe an open dataset."""
    colours = [ColorInterp(c) for c in dataset.colorinterp]
    alpha = _alpha(dataset)
    gcps, gcp_crs = dataset.gcps
    identity = dataset.transform == rasterio.Affine.identity()
    crs = dataset.crs or gcp_crs
    return RasterInfo(
        path=dataset.name,
        driver=dataset.driver,
        height=dataset.height,
        width=dataset.width,
        bands=tuple(i for i in dataset.indexes if i != alpha),
        alpha=alpha,
        dtype=dataset.dtypes[0],
        nodata=dataset.nodata,
        crs=crs.to_wkt() if crs else None,
        transform=None if identity else tuple(dataset.transform[:6]),
        num_gcps=len(gcps),
        has_rpcs=dataset.rpcs is not None,
        block=tuple(dataset.block_shapes[0]),
        compression=dataset.compression.name if dataset.compression else None,
        colours=tuple(c.name for c in colours),
        has_mask=any(MaskFlags.per_dataset in flags and alpha is None for flags in dataset.mask_flag_enums),
    )


def read_window(
    dataset: Any,
    window: Window,
    bands: Sequence[int] | None = None,
    nodata: Sequence[float | None] | float | None = None,
) -> tuple[Pixels, Mask]:
    """Read a window and what of it is valid.

    A pixel is valid where every band that is read says so: it is finite, no nodata value, and neither the band's mask
    nor the file's mask or alpha band hides it. Bands that are not read have no say.

    Args:
        dataset: From :func:`open_raster`.
        window: Lies inside the raster; the caller pads.
        bands: 1-based; all but an alpha band by default.
        nodata: Values that are not data in any band where they stand, beside what the file says.

    Returns:
        ``(C, h, w)`` float32, zero where invalid, and ``(h, w)`` bool.

    Raises:
        InputError: If pixels cannot be read; names the file and the window.
    """
    alpha = _alpha(dataset)
    chosen = list(bands) if bands is not None else [i for i in dataset.indexes if i != alpha]
    place = ((window.row, window.row_stop), (window.col, window.col_stop))
    try:
        with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
            pixels = dataset.read(chosen, window=place)
            valid = (dataset.read_masks(chosen, window=place) > 0).all(axis=0)
            if alpha is not None:
                valid &= dataset.read(alpha, window=place) > 0
    except (RasterioIOError, RasterioError) as error:
        where = f"rows {window.row}–{window.row_stop - 1}, columns {window.col}–{window.col_stop - 1}"
        raise InputError(f"{dataset.name}: cannot read {where}: {_reason(error, dataset.name)}") from error
    valid &= np.isfinite(pixels).all(axis=0)
    given = nodata if isinstance(nodata, Sequence) else [nodata]
    for index, band in enumerate(chosen):
        # GDAL lets a mask beside the file hide the tag, so the tag is compared here too.
        for value in {each for each in (dataset.nodatavals[band - 1], *given) if each is not None}:
            valid &= pixels[index] != value
    result = (np.abs(pixels) if np.iscomplexobj(pixels) else pixels).astype(np.float32)
    result[:, ~valid] = 0
    return result, valid


def check_bands(info: RasterInfo, wanted: int, bands: Sequence[int] | None) -> tuple[int, ...]:
    """Return the bands that a model of ``wanted`` channels reads.

    Raises:
        InputError: If their number differs or one does not exist; both numbers are said.
    """
    chosen = tuple(bands) if bands is not None else info.bands
    missing = [b for b in chosen if b not in (*info.bands, info.alpha)]
    if missing:
        raise InputError(f"{info.path}: no band {missing[0]}; it has {len(info.bands)} (1-based)")
    if len(chosen) != wanted:
        raise InputError(f"{info.path}: {len(chosen)} bands, the model takes {wanted}; choose them with --bands 1,2,…")
    return chosen


def _alpha(dataset: Any) -> int | None:
    # Asked once: after a tile that cannot be read, rasterio raises that tile's error again when asked for colours.
    if dataset not in _alphas:
        colours = list(dataset.colorinterp)
        _alphas[dataset] = colours.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in colours else None
    return _alphas[dataset]


def _open(path: Path, drivers: Sequence[str]) -> Any:
    reasons = []
    for driver in drivers:
        try:
            with warnings.catch_warnings():
                # Said by RasterInfo.notes; rasters without georeference are normal here.
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                return rasterio.open(path, driver=driver, sharing=False)
        except (RasterioIOError, RasterioError) as error:
            reasons.append(_reason(error, path))
    raise InputError(f"{path}: cannot be opened as {' or '.join(drivers)}: {reasons[0]}")


def _check(dataset: Any, path: Path, purpose: Purpose, complex_abs: bool) -> None:
    if not dataset.count:
        raise InputError(f"{path}: holds no band")
    size = np.dtype(dataset.dtypes[0].replace("complex_int16", "complex64")).itemsize
    rows, cols = dataset.block_shapes[0]
    per_block = size * rows * cols * (dataset.count if dataset.interleaving == _PIXEL else 1)
    if per_block > MAX_BLOCK_BYTES:
        raise InputError(
            f"{path}: one block of {rows} × {cols} px takes {per_block >> 20} MiB, the limit is "
            f"{MAX_BLOCK_BYTES >> 20}; rewrite it in tiles of 512 px"
        )
    total = size * dataset.count * dataset.height * dataset.width
    stored = os.path.getsize(path)
    if total > 1 << 30 and total > MAX_EXPANSION * stored:
        raise InputError(
            f"{path}: {dataset.height} × {dataset.width} px from {stored} bytes is not plausible; the file is "
            "damaged or a decompression bomb"
        )
    if purpose == "label":
        return
    if dataset.dtypes[0].startswith("complex") and not complex_abs:
        raise InputError(f"{path}: complex samples; use --complex abs for their absolute value")
    if ColorInterp.palette in dataset.colorinterp:
        raise InputError(f"{path}: a palette is no imagery; expand it to RGB first (gdal_translate -expand rgb)")
    if dataset.photometric in (PhotometricInterp.cmyk,):
        raise InputError(f"{path}: CMYK is no imagery; convert it to RGB first")
    if dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS") == "1":
        raise InputError(f"{path}: a 1-bit raster is a label, not imagery")


_alphas: WeakKeyDictionary[Any, int | None] = WeakKeyDictionary()
_PIXEL = rasterio.enums.Interleaving.pixel


def _reason(error: Exception, path: Path | str) -> str:
    cause = error.__cause__ or error
    text = str(cause).strip().splitlines()
    return text[0].removeprefix(f"{path}: ")[:200] if text else type(cause).__name__
