"""A result as one Cloud-Optimised GeoTIFF, put together from parts that were written as they were ready.

The driver of Cloud-Optimised GeoTIFFs copies whole images only, and would hold one that is written window by window in
memory. So every part is a small GeoTIFF of its own; a VRT lays them side by side, and is copied with a bounded cache.
"""

import logging
import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError  # what rasterio.shutil raises; no public name
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from xt.errors import OutputError
from xt.files import replacing
from xt.geometry.grid import Window
from xt.inference.mosaic import mosaic_xml
from xt.tasks.base import Product

PART_BLOCK = 256
MAX_THREADS = 8
BOUNDED = {
    "GDAL_CACHEMAX": 32 << 20,
    "GDAL_MAX_DATASET_POOL_SIZE": 16,  # parts that are open at once
    "GDAL_OVR_CHUNK_MAX_SIZE": 4 << 20,  # with 1 MiB wide images take twice as long
    "VRT_NUM_THREADS": 1,
    "GDAL_PAM_ENABLED": False,  # no .aux.xml beside the file
}
"""What GDAL may hold, measured: without it an image of 2,048 × 200,000 px took 460 MB. A thread takes 20 MB more."""


@dataclass(frozen=True)
class Part:
    """A rectangle of the result that has been written.

    Attributes:
        path: Written by :func:`write_part`.
        window: Where it lies in the image.
    """

    path: Path
    window: Window


def write_part(path: Path, pixels: npt.NDArray[Any], product: Product) -> None:
    """Write a rectangle of the result: tiled, and packed by Zstandard, which takes little longer than not to pack.

    Args:
        path: File to write; its name appears when it is complete.
        pixels: ``(bands, h, w)`` of the product's type.
        product: Bands, their type and nodata.

    Raises:
        OutputError: If the disk is full or the file cannot be written.
    """
    bands, height, width = pixels.shape
    assert (bands, pixels.dtype.name) == (len(product.names), product.dtype), (pixels.shape, pixels.dtype, product)
    side = min(PART_BLOCK, -(-max(height, width) // 16) * 16)
    settings = {
        "driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": product.dtype,
        "nodata": product.nodata, "tiled": True, "blockxsize": side, "blockysize": side, "interleave": "band",
        "compress": "zstd", "zstd_level": 1, "bigtiff": "if_safer",
        "transform": rasterio.Affine.scale(2),  # of no meaning; without one rasterio warns, in a thread for all threads
    }  # fmt: skip
    with replacing(path) as partial, _explained(path, partial):
        with rasterio.open(partial, "w", **settings) as out:
            out.write(pixels)
        _check_end(partial)


def assemble(
    parts: Sequence[Part],
    partial: Path,
    profile: dict[str, Any],
    product: Product,
    settings: dict[str, Any],
    tags: Mapping[str, str],
    path: Path | None = None,
) -> None:
    """Make one Cloud-Optimised GeoTIFF of parts: the grid of the image, and the pixels of the parts as they are.

    Overviews leave nodata out. Bands have the product's names. Names of classes are in the band's metadata, as
    ``CLASS_0``, ``CLASS_1``, …, which GDAL and QGIS show but do not take for a legend: GDAL keeps category names of a
    GeoTIFF in a second file, ``.aux.xml``, which gets lost. Colours of classes are the band's colour table.

    Args:
        parts: Disjoint; what they leave uncovered is nodata.
        partial: File to write; files of its name with something appended are written beside it and removed.
        profile: Grid as :meth:`~xt.data.source.Source.profile` gives it: height, width, CRS, and a transform or control
            points or neither, RPCs.
        product: What the parts hold.
        settings: Of :func:`~xt.inference.creation.check_cog`: driver and creation options.
        tags: Metadata of the file: name → text.
        path: Final name, for messages; ``partial`` by default.

    Raises:
        OutputError: If the disk is full, the file cannot be written or a part cannot be read.
    """
    mosaic = partial.with_name(f"{partial.name}.vrt")
    defaults = {"overview_resampling": product.resampling, "num_threads": threads()}
    try:
        with _explained(path or partial, partial):
            sources = [(part.path, part.window) for part in parts]
            xml = mosaic_xml(sources, profile, product, tags, PART_BLOCK)
            mosaic.write_text(xml, encoding="utf-8", errors="surrogateescape")
            rasterio.shutil.copy(mosaic, partial, **(defaults | settings))
            _check_end(partial)
    finally:
        mosaic.unlink(missing_ok=True)


def _check_end(path: Path) -> None:
    """Read the last pixel of every band: what was written last."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # as the image is
        dataset = rasterio.open(path)
    with dataset as done:
        done.read(window=((done.height - 1, done.height), (done.width - 1, done.width)))


@contextmanager
def _explained(path: Path, partial: Path) -> Iterator[None]:
    """Work with a small cache; whatever the driver complains of is one error."""
    complaints: list[str] = []
    thread = threading.get_ident()

    def collect(record: logging.LogRecord) -> bool:
        if record.thread == thread and record.levelno >= logging.ERROR:
            complaints.append(record.getMessage())
        return record.thread != thread

    logger = logging.getLogger("rasterio._env")
    logger.addFilter(collect)
    try:
        with rasterio.Env(**BOUNDED):
            yield
        if complaints:
            raise OSError(complaints[0])
    except (RasterioError, CPLE_BaseError, OSError) as error:
        reason = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0]
        raise OutputError(
            f"{path} cannot be written: {reason.replace(f'{partial}: ', '')}; free space or check rights"
        ) from error
    finally:
        logger.removeFilter(collect)


def threads() -> int:
    """Threads that pack or unpack a GeoTIFF."""
    return min(MAX_THREADS, _cores())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
