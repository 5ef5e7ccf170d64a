"""Creation options of GDAL (``--co``): which are taken, and whether the driver takes their values."""

import logging
import re
import warnings
from collections.abc import Mapping
from typing import Any

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from xt.errors import ConfigError, nearest

DEFAULTS = {
    "driver": "GTiff", "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate",
    "bigtiff": "if_safer",
}  # fmt: skip
"""How a result is stored where ``--co`` does not say otherwise."""

TAKEN = (
    "BIGTIFF", "BLOCKXSIZE", "BLOCKYSIZE", "COMPRESS", "ENDIANNESS", "INTERLEAVE", "LZMA_PRESET", "NUM_THREADS",
    "PREDICTOR", "SPARSE_OK", "ZLEVEL", "ZSTD_LEVEL",
)  # fmt: skip
"""Options that change how values are stored, never the values, the grid or the format."""

LOSSLESS = ("NONE", "PACKBITS", "LZW", "DEFLATE", "ZSTD", "LZMA", "LERC", "LERC_DEFLATE", "LERC_ZSTD")
MAX_BLOCK = 2048


def check_creation(options: Mapping[str, str], dtype: str, count: int) -> dict[str, Any]:
    """Let the driver write a tiny file in memory with each option, so that a wrong one is found before the work.

    Args:
        options: Keys and values, keys in any case.
        dtype: Sample type of the result.
        count: Bands of the result.

    Returns:
        Settings for :func:`rasterio.open`, with :data:`DEFAULTS`.

    Raises:
        ConfigError: If a key is not taken, or the driver does not take its value.
    """
    settings: dict[str, Any] = dict(DEFAULTS)
    for key, value in options.items():
        settings[key.lower()] = value
        problem = _refused(key.upper(), value) or _complaint(settings | {"dtype": dtype, "count": count})
        if problem:
            raise ConfigError(f"--co {key}={value}: {problem}; leave it out or change it")
    return settings


def _refused(key: str, value: str) -> str:
    if key not in TAKEN:
        return f"this option is not taken{nearest(key, TAKEN)}"
    if key == "COMPRESS" and value.upper() not in LOSSLESS:
        return f"not a lossless compression of GeoTIFF{nearest(value.upper(), LOSSLESS)}"
    if key.startswith("BLOCK") and not (value.isdecimal() and 16 <= int(value) <= MAX_BLOCK and int(value) % 16 == 0):
        return f"must be a multiple of 16 up to {MAX_BLOCK}"
    return ""


def _complaint(settings: dict[str, Any]) -> str:
    """Return the first error or warning of the driver; GDAL ignores much of what it does not understand."""
    messages: list[str] = []

    def collect(record: logging.LogRecord) -> bool:
        messages.append(record.getMessage())
        return False

    logger = logging.getLogger("rasterio._env")
    logger.addFilter(collect)
    try:
        with warnings.catch_warnings(), rasterio.Env(), MemoryFile() as file:
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            file.open(height=16, width=16, **settings).close()
    except (RasterioError, OSError) as error:
        messages.append(str(error.__cause__ or error))
    finally:
        logger.removeFilter(collect)
    return re.sub(r"^(CPLE_\w+ in )?(\S+\.tif: )?", "", messages[0]).rstrip(".") if messages else ""


def check_cog(options: Mapping[str, str], product: Any) -> dict[str, Any]:
    """Temporary."""
    return {"driver": "COG", "compress": "deflate", "bigtiff": "if_safer", "blocksize": 512}
