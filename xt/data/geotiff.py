"""The only place that opens rasters: which files are taken, what is valid, and how windows are read.

A handle belongs to one process and one thread: shared handles return wrong pixels silently (rasterio 1.4.4). Those
that stay open between windows are kept by :mod:`xt.data.handles`.
"""

import os
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio._err import CPLE_BaseError  # no public name
from rasterio.enums import ColorInterp, MaskFlags, PhotometricInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from xt.data import address, formats
from xt.data.libtiff import be_quiet
from xt.data.raster_info import RasterInfo, alpha_band, colours_of, describe
from xt.data.sidecars import check_overviews, has_sidecars
from xt.errors import InputError
from xt.geometry.grid import Window

Purpose = Literal["image", "label"]
MAX_BLOCK_BYTES = 256 << 20
MAX_EXPANSION = 5000
INDEX_BYTES = 4
"""That a TIFF holds for each block at least, also of those that are not stored: where it lies."""
CACHE_BYTES = 256 << 20

Pixels = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

be_quiet()


@contextmanager
def open_raster(path: Path | str, purpose: Purpose = "image", complex_abs: bool = False) -> Iterator[Any]:
    """Open a raster after checking that it can be read safely.

    Args:
        path: A file, or what :func:`~xt.data.address.image_path` made of an address.
        purpose: ``"label"`` takes palettes and 1-bit rasters too.
        complex_abs: Take complex samples; their absolute value is read.

    Yields:
        A rasterio dataset. It must stay in this process and thread.

    Raises:
        InputError: If the file is missing, of another format, a decompression bomb, or not fit for the purpose.
    """
    with open_dataset(path, purpose, complex_abs) as dataset, environment(path):
        yield dataset


def open_dataset(path: Path | str, purpose: Purpose = "image", complex_abs: bool = False) -> Any:
    """Open a raster as :func:`open_raster` does; the caller closes it.

    Raises:
        InputError: As :func:`open_raster`.
    """
    path = Path(path)
    virtual = address.is_virtual(path)
    fault = address.fault(path)
    if fault is None and not virtual and not path.is_file():
        what = "a folder" if path.is_dir() else "no file, and cannot be read in pieces"
        fault = f"{path}: is {what}; give a raster" + (", such as one that lies in it" if path.is_dir() else "")
    if fault is not None:
        raise InputError(fault)
    listing = "FALSE" if not virtual and has_sidecars(path) else "EMPTY_DIR"
    with environment(path, GDAL_DISABLE_READDIR_ON_OPEN=listing):
        dataset = _open(path)
        try:
            colours_of(dataset)
            check_overviews(dataset, path)
            _check(dataset, path, purpose, complex_abs)
            formats.check_sources(dataset, path)
            _ = dataset.mask_flag_enums  # a mask beside the file is looked for now
        except CPLE_BaseError as error:
            dataset.close()
            raise InputError(f"{address.shown(path)}: cannot be read: {_reason(error, path)}") from error
        except BaseException:
            dataset.close()
            raise
        return dataset


def environment(path: Path | str, **options: Any) -> Any:
    """Settings of GDAL under which a raster is opened and read: a bounded cache, and patience with the net."""
    path = Path(path)
    net = address.OPTIONS if address.is_virtual(path) or formats.is_mosaic(path) else {}
    return rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES, GDAL_VRT_ENABLE_PYTHON="NO", **net, **options)


def state_of(path: Path) -> tuple[int, int]:
    """Two numbers that change when a file does: bytes and nanoseconds, or what some blocks of a virtual file say.

    Those of a mosaic change with the files that it is made of.

    Raises:
        OSError: If there is no such file.
        InputError: If a virtual file cannot be opened.
    """
    if not address.is_virtual(path):
        state = os.stat(path)
        if not formats.is_mosaic(path):
            return state.st_size, state.st_mtime_ns
        with open_dataset(path, "label", complex_abs=True) as dataset:
            sources = formats.state_of_sources(dataset)
        return state.st_size, zlib.crc32(repr((state.st_mtime_ns, sources)).encode())
    with open_dataset(path, "label", complex_abs=True) as dataset, environment(path):
        size, block = (dataset.height, dataset.width), dataset.block_shapes[0]
        rows, cols = (
            np.unique(np.linspace(0, -(-pixels // step) - 1, 5).round())
            for pixels, step in zip(size, block, strict=True)
        )
        places = [
            dataset.get_tag_item(f"{what}_{int(col)}_{int(row)}", "TIFF", bidx=1)
            for row in rows
            for col in cols
            for what in ("BLOCK_OFFSET", "BLOCK_SIZE")
        ]
        facts = [size, dataset.dtypes, places, sorted(dataset.tags().items())]
        return dataset.height * dataset.width, zlib.crc32(repr(facts).encode())


def inspect(path: Path | str) -> RasterInfo:
    """Describe a raster without reading a pixel.

    Raises:
        InputError: As :func:`open_raster`.
    """
    with open_raster(path, purpose="label", complex_abs=True) as dataset:
        return describe(dataset)


def read_window(
    dataset: Any,
    window: Window,
    bands: Sequence[int] | None = None,
    nodata: Sequence[float | None] | float | None = None,
) -> tuple[Pixels, Mask]:
    """Read a window and what of it is valid.

    A band is known where it is finite, no nodata value, and hidden neither by its mask nor by the file's mask or alpha.
    A pixel is valid where every band that is read is known. In 8 bits one known band is enough, as in GDAL's mask of a
    whole raster: among so few values that of nodata is an ordinary one too, such as the blue of a red roof.
    Bands that are not read have no say.

    Args:
        dataset: From :func:`open_raster`.
        window: Lies inside the raster; the caller pads.
        bands: 1-based; all but an alpha band by default. One that is read hides nothing: GDAL calls the fourth of four
            bands of 8 bits alpha, infrared too.
        nodata: Values that are not data in any band where they stand, beside what the file says.

    Returns:
        ``(C, h, w)`` float32, zero where invalid, and ``(h, w)`` bool.

    Raises:
        InputError: If pixels cannot be read; names the file and the window.
    """
    alpha = alpha_band(dataset)
    chosen = list(bands) if bands is not None else [i for i in dataset.indexes if i != alpha]
    pixels, valid = _read(dataset, window, chosen, nodata if isinstance(nodata, Sequence) else [nodata])
    result = (np.abs(pixels) if np.iscomplexobj(pixels) else pixels).astype(np.float32, copy=False)
    np.copyto(result, np.float32(0), where=~valid)
    return result, valid


def class_names(dataset: Any, band: int = 1) -> dict[int, str]:
    """Number → name of the classes of a map, where it has names as ``xt predict`` writes them."""
    found = {re.fullmatch(r"CLASS_(\d+)", key): name for key, name in dataset.tags(band).items()}
    return {int(match[1]): name for match, name in found.items() if match}


def read_values(dataset: Any, window: Window, band: int, nodata: float | None = None) -> tuple[npt.NDArray[Any], Mask]:
    """Read a window of one band in the type that it is stored in, and what of it is valid, as :func:`read_window` does.

    Returns:
        ``(h, w)`` of the band's type, whatever it is where invalid, and ``(h, w)`` bool.

    Raises:
        InputError: As :func:`read_window`.
    """
    values, valid = _read(dataset, window, [band], [nodata])
    return values[0], valid


def in_unit(dataset: Any, band: int, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Numbers of one band by its scale and offset, in float64; as they are where it has none."""
    scale, offset = dataset.scales[band - 1], dataset.offsets[band - 1]
    return values if (scale, offset) == (1, 0) else values * np.float64(scale) + offset


def _read(
    dataset: Any, window: Window, bands: list[int], nodata: Sequence[float | None]
) -> tuple[npt.NDArray[Any], Mask]:
    alpha = alpha_band(dataset)
    place = ((window.row, window.row_stop), (window.col, window.col_stop))
    try:
        with environment(dataset.name):
            pixels = dataset.read(bands, window=place)
            known = dataset.read_masks(bands, window=place) > 0
            if alpha in bands:
                known[[MaskFlags.alpha in dataset.mask_flag_enums[band - 1] for band in bands]] = True
            shown = None if alpha is None or alpha in bands else dataset.read(alpha, window=place) > 0
    except (RasterioError, CPLE_BaseError) as error:
        where = f"rows {window.row}–{window.row_stop - 1}, columns {window.col}–{window.col_stop - 1}"
        name = address.shown(Path(dataset.name))
        raise InputError(f"{name}: cannot read {where}: {_reason(error, dataset.name)}") from error
    known &= np.isfinite(pixels)
    for index, band in enumerate(bands):
        # GDAL lets a mask beside the file hide the tag, so the tag is compared here too.
        for value in {each for each in (dataset.nodatavals[band - 1], *nodata) if each is not None}:
            known[index] &= pixels[index] != value
    valid: Mask = known.any(axis=0) if pixels.itemsize == 1 else known.all(axis=0)
    return pixels, valid if shown is None else valid & shown


def check_bands(info: RasterInfo, wanted: int, bands: Sequence[int] | None) -> tuple[int, ...]:
    """Return the bands that a model of ``wanted`` channels reads.

    Raises:
        InputError: If their number differs or one does not exist; both numbers are said.
    """
    chosen = tuple(bands) if bands is not None else info.bands
    missing = [b for b in chosen if b not in (*info.bands, info.alpha)]
    if missing:
        raise InputError(f"{info.path}: no band {missing[0]}; it has {len(info.bands) + bool(info.alpha)} (1-based)")
    if len(chosen) != wanted:
        hidden = f" beside band {info.alpha}, which it calls alpha" if info.alpha and info.alpha not in chosen else ""
        raise InputError(
            f"{info.path}: {len(chosen)} bands{hidden}, the model takes {wanted}; choose them with --bands 1,2,…, or "
            "data.init_args.band_indexes in training"
        )
    return chosen


def _open(path: Path) -> Any:
    drivers, reasons = formats.drivers_of(path), []
    for driver in drivers:
        try:
            with warnings.catch_warnings():
                # Said by RasterInfo.notes; rasters without georeference are normal here.
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                return rasterio.open(address.gdal_name(path), driver=driver, sharing=False)
        except (RasterioError, CPLE_BaseError) as error:
            reasons.append(_reason(error, path))
    name, advice = address.shown(path), ""
    if "not recognized" in reasons[0] and not address.is_virtual(path):
        advice = f"; if GDAL reads it in another, make a GeoTIFF of it: gdal_translate {name} {path.stem}.tif"
    raise InputError(f"{name}: cannot be opened as {' or '.join(drivers)}: {reasons[0]}{advice}")


def _check(dataset: Any, path: Path, purpose: Purpose, complex_abs: bool) -> None:
    if not dataset.count:
        raise InputError(f"{path}: holds no band")
    size = np.dtype(dataset.dtypes[0].replace("complex_int16", "complex64")).itemsize
    rows, cols = dataset.block_shapes[0]
    together = dataset.interleaving == _PIXEL
    per_block = size * rows * cols * (dataset.count if together else 1)
    if per_block > MAX_BLOCK_BYTES:
        raise InputError(
            f"{path}: one block of {rows} × {cols} px takes {per_block >> 20} MiB, the limit is "
            f"{MAX_BLOCK_BYTES >> 20}; rewrite it in tiles of 512 px"
        )
    num_blocks = -(-dataset.height // rows) * -(-dataset.width // cols) * (1 if together else dataset.count)
    elsewhere = address.is_virtual(path) or dataset.driver == "VRT"  # what the net brings is read by regions
    stored = 0 if elsewhere else os.path.getsize(path)
    total = size * dataset.count * dataset.height * dataset.width
    least = num_blocks * INDEX_BYTES if dataset.driver == "GTiff" else total // MAX_EXPANSION
    if stored and total > 1 << 30 and least > stored:
        raise InputError(
            f"{path}: {dataset.height} × {dataset.width} px from {stored} bytes is not plausible; the file is "
            "damaged or a decompression bomb"
        )
    if purpose == "label":
        return
    if dataset.dtypes[0].startswith("complex") and not complex_abs:
        raise InputError(f"{path}: complex samples; use --complex abs for their absolute value")
    if dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS") == "1":  # GDAL gives it a palette too
        raise InputError(f"{path}: a 1-bit raster is a label, not imagery")
    if ColorInterp.palette in colours_of(dataset):
        raise InputError(f"{path}: a palette is no imagery; expand it to RGB first (gdal_translate -expand rgb)")
    if dataset.photometric in (PhotometricInterp.cmyk,):
        raise InputError(f"{path}: CMYK is no imagery; convert it to RGB first")


_PIXEL = rasterio.enums.Interleaving.pixel


def _reason(error: Exception, path: Path | str) -> str:
    cause = error.__cause__ or error
    text = str(cause).strip().splitlines()
    return text[0].removeprefix(f"{path}: ")[:200] if text else type(cause).__name__
