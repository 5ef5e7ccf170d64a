"""Maps on disk, and what xt score says of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely

from xt.cli.main import main

NAMES = ["sea", "ship", "ice"]
GRID = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}


def save(path: Path, pixels: np.ndarray, names: list[str] | None = None, **options: Any) -> Path:
    bands = pixels if pixels.ndim == 3 else pixels[None]
    count, height, width = bands.shape
    size = {"count": count, "height": height, "width": width, "dtype": pixels.dtype, "driver": "GTiff"}
    with rasterio.open(path, "w", **(size | GRID | options)) as out:
        out.write(bands)
        if names:  # as xt predict does
            out.write_colormap(1, {number: (number, 9, 9, 255) for number in range(len(names))})
            out.update_tags(1, **{f"CLASS_{number}": name for number, name in enumerate(names)})
    return path


def score(capsys: pytest.CaptureFixture[str], *argv: object, code: int = 0) -> tuple[dict[str, float], str]:
    assert main(["score", *map(str, argv), "--json"]) == code
    told = capsys.readouterr()
    return json.loads(told.out or "{}"), told.err


def layer(path: Path, shapes: list[Any], crs: str | None = GRID["crs"], **columns: list[Any]) -> Path:
    """Save shapes that are told in columns and rows."""
    grid = GRID["transform"]
    placed = [shapely.transform(each, lambda at: at * [grid.a, grid.e] + [grid.c, grid.f]) for each in shapes]
    driver = {".gpkg": "GPKG", ".geojson": "GeoJSON"}[path.suffix]
    values = [np.array(each, object if isinstance(each[0], str) else np.int64) for each in columns.values()]
    pyogrio.raw.write(
        str(path), shapely.to_wkb(placed), values, list(columns), geometry_type="Polygon", crs=crs, driver=driver
    )
    return path
