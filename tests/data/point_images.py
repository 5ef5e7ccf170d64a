"""Images with bright pixels where the objects are, and these objects in every form that is read."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import rasterio
import rasterio.warp
import shapely
from rasterio.transform import Affine
from rasters import GRID, UTM, noise, write

from xt.data.points import PointsData

PLACES = {"a": [(10, 20), (70, 33)], "b": [(5, 5)], "v": [(60, 80), (0, 0), (89, 99)]}
EAST = {"a": 0, "b": 2000, "v": 4000}


def transform(name: str) -> Affine:
    return Affine(10, 0, GRID.c + EAST[name], 0, -10, GRID.f)


def three_images(tmp_path: Path) -> Path:
    """Three images side by side on the map with bright pixels where the objects are; ``c`` has none."""
    for name, places in {**PLACES, "c": []}.items():
        image = noise(2, 90, 100) / 100
        for row, col in places:
            image[0, row, col] = 100
        place = {"crs": UTM, "transform": transform(name)} if name in PLACES else {}
        write(tmp_path / f"images/{name}.tif", image, **place)
    return tmp_path


def on_map(name: str, row: float, col: float) -> tuple[float, float]:
    return GRID.c + EAST[name] + 10 * (col + 0.5), GRID.f - 10 * (row + 0.5)


def in_degrees(points: list[tuple[float, float]]) -> list[list[float]]:
    return np.transpose(rasterio.warp.transform(UTM, "EPSG:4326", *np.transpose(points))).tolist()


ALL = [(name, row, col) for name, places in PLACES.items() for row, col in places]


def csv(path: Path, header: str, rows: list[tuple[Any, ...]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(header + "\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))


def geojson(path: Path, names: list[str]) -> None:
    degrees = in_degrees([on_map(*each) for each in ALL if each[0] in names])
    features = [
        {"type": "Feature", "properties": {"is_vessel": i % 2 == 0}, "geometry": {"type": "Point", "coordinates": at}}
        for i, at in enumerate(degrees)
    ]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def layer(path: Path, driver: str, boxes: bool = False) -> None:
    shapes = shapely.points([on_map(*each) for each in ALL])
    if boxes:
        shapes = [shapely.box(x - 30, y - 14, x + 30, y + 14) for x, y in (on_map(*each) for each in ALL)]
    lengths = np.array([np.nan, 40.0, 50.0, 60.0, 70.0, 80.0])
    kind = "Polygon" if boxes else "Point"
    geometry = shapely.to_wkb(shapes)
    pyogrio.raw.write(str(path), geometry, [lengths], ["vessel_length_m"], geometry_type=kind, crs=UTM, driver=driver)


def form(root: Path, kind: str) -> str:
    """Write the objects in one of the ways that are read; return the file's name."""
    if kind == "pixels":
        csv(root / "p.csv", "scene_id,row,column,is_vessel,confidence", [(*each, "True", "high") for each in ALL])
    elif kind == "xview3":
        csv(
            root / "p.csv",
            "detect_scene_row,detect_scene_column,scene_id",
            [(row, col, name) for name, row, col in ALL],
        )
    elif kind == "csv boxes":
        boxes = [(f"x/{name}.tif", col - 2, row - 1, col + 3, row + 2) for name, row, col in ALL]
        csv(root / "p.csv", "image_path,xmin,ymin,xmax,ymax", boxes)
    elif kind == "map":
        csv(root / "p.csv", "x,y", [on_map(*each) for each in ALL])
    elif kind == "map of scenes":
        csv(root / "p.csv", "scene_id,x,y,is_fishing", [(each[0], *on_map(*each), "") for each in ALL])
    elif kind == "folder":
        for name in "ab":
            csv(root / f"p/{name}.csv", "row,column", [each[1:] for each in ALL if each[0] == name])
        geojson(root / "p/v.geojson", ["v"])
    elif kind == "geojson":
        geojson(root / "p.geojson", list(PLACES))
    elif kind == "shp":
        layer(root / "p.shp", "ESRI Shapefile")
    elif kind == "fgb":
        layer(root / "p.fgb", "FlatGeobuf")
    else:
        layer(root / "p.gpkg", "GPKG", kind == "boxes")
    return {
        "folder": "p",
        "geojson": "p.geojson",
        "gpkg": "p.gpkg",
        "boxes": "p.gpkg",
        "shp": "p.shp",
        "fgb": "p.fgb",
    }.get(kind, "p.csv")


def build(root: Path, points: str, **options: Any) -> PointsData:
    data = PointsData(str(root), ["p", "q"], "^v", points=points, **{"image_size": 64} | options)
    data.setup("fit")
    return data
