"""Formats that are read, by the name of a file, and the files that a mosaic is made of."""

from pathlib import Path
from typing import Any

from xt.data.address import gdal_name, is_virtual, shown
from xt.errors import InputError

USUAL = ("GTiff", "PNG", "JPEG")
BY_SUFFIX = {".vrt": ("VRT",), ".jp2": ("JP2OpenJPEG",), ".j2k": ("JP2OpenJPEG",)}
"""Suffix → GDAL's drivers. A VRT reads whatever it names, so only a file that calls itself one is taken as one."""


def drivers_of(path: Path) -> tuple[str, ...]:
    """GDAL's names of the formats that a file may have; what it holds is not looked at."""
    return BY_SUFFIX.get(path.suffix.lower(), USUAL)


def is_raster(path: Path) -> bool:
    """Whether a file has the name of an image."""
    return path.suffix.lower() in (".tif", ".tiff", ".png", ".jpg", ".jpeg", *BY_SUFFIX)


def is_mosaic(path: Path) -> bool:
    """Whether a file calls itself a VRT."""
    return drivers_of(path) == ("VRT",)


def sources_of(dataset: Any) -> list[Path]:
    """Files that an open mosaic (VRT) reads; none of any other raster."""
    if dataset.driver != "VRT":
        return []
    return [Path(name) for name in dataset.files if name != dataset.name]


def check_sources(dataset: Any, path: Path) -> None:
    """Make sure that what a mosaic is made of is there: GDAL finds out at the first pixel, hours later.

    Raises:
        InputError: If a file is missing; names it. What is not on this machine is not asked for.
    """
    missing = [
        each for each in sources_of(dataset) if not is_virtual(each) and ":" not in str(each) and not each.exists()
    ]
    if missing:
        more = f" and {len(missing) - 1} more files" if len(missing) > 1 else ""
        raise InputError(f"{shown(path)}: it is made of {shown(missing[0])}{more}, which cannot be found")


def state_of_sources(dataset: Any) -> list[tuple[str, int, int]]:
    """Name, bytes and time in nanoseconds of what a mosaic is made of, where it is on this machine."""
    files = [each for each in sources_of(dataset) if not is_virtual(each) and each.exists()]
    states = [(gdal_name(each), each.stat()) for each in files]
    return sorted((name, state.st_size, state.st_mtime_ns) for name, state in states)
