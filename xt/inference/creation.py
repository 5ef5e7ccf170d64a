"""Creation options of GDAL (``--co``): which are taken, and whether the driver takes their values."""

import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError  # what rasterio.shutil raises; no public name
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from xt.errors import ConfigError, nearest
from xt.inference.mosaic import TYPES
from xt.tasks.base import Product

DEFAULTS = {"driver": "COG", "compress": "deflate", "blocksize": 512, "bigtiff": "if_safer"}
"""How a result is stored where ``--co`` does not say otherwise."""

PREDICTED = "DEFLATE", "LZW", "ZSTD"
"""Compressions before which a float's bytes are sorted by weight and each is replaced by its difference to the last."""

TAKEN = (
    "BIGTIFF", "BLOCKSIZE", "COMPRESS", "LEVEL", "NUM_THREADS", "OVERVIEWS", "OVERVIEW_COMPRESS", "PREDICTOR",
    "SPARSE_OK",
)  # fmt: skip
"""Options of Cloud-Optimised GeoTIFFs that change how values are stored, never the values, the grid or the format."""

OF_GEOTIFF = {
    "BLOCKXSIZE": "BLOCKSIZE", "BLOCKYSIZE": "BLOCKSIZE", "ZLEVEL": "LEVEL", "ZSTD_LEVEL": "LEVEL",
    "LZMA_PRESET": "LEVEL",
}  # fmt: skip
"""What plain GeoTIFFs call them."""

LOSSLESS = ("NONE", "LZW", "DEFLATE", "ZSTD", "LZMA", "LERC", "LERC_DEFLATE", "LERC_ZSTD")
SMALLEST_BLOCK, LARGEST_BLOCK = 128, 2048


def check_cog(options: Mapping[str, str], product: Product) -> dict[str, Any]:
    """Let the driver write a tiny file in memory with each option, so that a wrong one is found before the work.

    Args:
        options: Keys and values, keys in any case.
        product: What is to be stored.

    Returns:
        Settings for :func:`~xt.inference.cog.assemble`, with :func:`defaults`.

    Raises:
        ConfigError: If a key is not taken, the driver does not take its value, or it knows no such pixels.
    """
    if product.dtype not in TYPES:
        raise ConfigError(f"the task publishes {product.dtype}; it must be one of {', '.join(TYPES)}")
    settings = defaults(options, product)
    for key, value in options.items():
        settings[key.lower()] = value
        problem = _refused(key.upper(), value) or _complaint(settings, product)
        if problem:
            raise ConfigError(f"--co {key}={value}: {problem}; leave it out or change it")
    return settings


def defaults(options: Mapping[str, str], product: Product) -> dict[str, Any]:
    """:data:`DEFAULTS`, and of floats with the predictor for them, after which Deflate's first level is enough.

    On maps that a model gives this makes files a sixth smaller than Deflate as GDAL does it, in less time.
    """
    settings: dict[str, Any] = dict(DEFAULTS)
    if np.issubdtype(np.dtype(product.dtype), np.floating):
        asked = {key.upper(): value.upper() for key, value in options.items()}
        if asked.get("COMPRESS", "DEFLATE") in PREDICTED:
            settings["predictor"] = "yes"
        if "COMPRESS" not in asked:
            settings["level"] = 1
    return settings


def _refused(key: str, value: str) -> str:
    if key in OF_GEOTIFF:
        return f"a Cloud-Optimised GeoTIFF calls it {OF_GEOTIFF[key]}"
    if key not in TAKEN:
        return f"this option is not taken{nearest(key, TAKEN)}"
    if key in ("COMPRESS", "OVERVIEW_COMPRESS") and value.upper() not in LOSSLESS:
        return f"not a lossless compression{nearest(value.upper(), LOSSLESS)}"
    if key == "BLOCKSIZE" and not (
        value.isdecimal() and SMALLEST_BLOCK <= int(value) <= LARGEST_BLOCK and int(value) % 16 == 0
    ):
        return f"must be a multiple of 16 from {SMALLEST_BLOCK} to {LARGEST_BLOCK}"
    return ""


def _complaint(settings: dict[str, Any], product: Product) -> str:
    """Return the first error or warning of the driver; GDAL ignores much of what it does not understand."""
    bands = len(product.names)
    shape = {"height": 16, "width": 16, "count": bands, "dtype": product.dtype, "driver": "GTiff"}
    with (
        _collected() as messages,
        warnings.catch_warnings(),
        rasterio.Env(),
        MemoryFile() as given,
        MemoryFile() as made,
    ):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with given.open(**shape) as out:
            out.write(np.zeros((bands, 16, 16), product.dtype))
        try:
            rasterio.shutil.copy(given.name, made.name, **settings)
        except (RasterioError, CPLE_BaseError, OSError) as error:
            messages.append(str(error.__cause__ or error))
    return re.sub(r"^(CPLE_\w+ in )?(\S+\.tif: )?", "", messages[0]).rstrip(".") if messages else ""


@contextmanager
def _collected() -> Iterator[list[str]]:
    """What GDAL logs meanwhile, which nobody else hears."""
    messages: list[str] = []

    def collect(record: logging.LogRecord) -> bool:
        messages.append(record.getMessage())
        return False

    logger = logging.getLogger("rasterio._env")
    logger.addFilter(collect)
    try:
        yield messages
    finally:
        logger.removeFilter(collect)
