"""Files beside a raster that GDAL reads with it: which count, and which are refused.

GDAL looks for them only where one of these names exists. A world file gives the transform, a MapInfo ``.tab`` the
transform and CRS, ``.rpb`` and ``_rpc.txt`` the rational polynomials; all are text. ``.aux.xml`` holds what a TIFF
cannot. ``.msk`` and ``.ovr`` are rasters, which GDAL would open as any format, a VRT that reads other files too: only
TIFF is taken.
"""

from pathlib import Path
from typing import Any

from xt.errors import InputError

RASTERS = (".msk", ".ovr", ".msk.ovr", ".ovr.msk", ".ovr.ovr")
"""After the file's whole name."""
WORLD = (".tfw", ".tifw", ".tiffw", ".pgw", ".pngw", ".jgw", ".jpgw", ".jpegw", ".wld")
TEXTS = (*WORLD, ".tab", ".rpb", "_rpc.txt")
"""In place of the file's suffix."""
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def has_sidecars(path: Path) -> bool:
    """Tell whether GDAL must look beside a raster.

    Raises:
        InputError: If a mask or overview beside it is no TIFF.
    """
    rasters = [side for suffix in RASTERS for side in _cases(path.with_name(path.name + suffix))]
    for side in rasters:
        with side.open("rb") as file:
            if file.read(4) not in _TIFF:
                raise InputError(f"{side}: no TIFF, so not taken beside {path.name}; remove it or write it as GeoTIFF")
    if rasters or path.with_name(f"{path.name}.aux.xml").is_file():
        return True
    return any(_cases(path.with_name(path.stem + suffix)) for suffix in TEXTS)


def check_overviews(dataset: Any, path: Path) -> None:
    """Refuse metadata that name another file to read pixels from.

    Raises:
        InputError: If there are such.
    """
    if "OVERVIEW_FILE" in dataset.tags(ns="OVERVIEWS"):
        raise InputError(f"{path}: its metadata name another file for overviews, which is not followed; remove them")


def _cases(path: Path) -> list[Path]:
    """Return what exists of the spellings that GDAL tries: suffix in small and in capital letters."""
    stem = path.name[: -len("_rpc.txt")] if path.name.endswith("_rpc.txt") else path.stem
    if path.name.endswith(RASTERS):
        stem = path.name.removesuffix(path.suffix)
    end = path.name[len(stem) :]
    spellings = dict.fromkeys((end, end.upper(), end.upper().replace(".TXT", ".txt"), end.replace(".txt", ".TXT")))
    return [side for side in (path.with_name(stem + each) for each in spellings) if side.is_file()]
