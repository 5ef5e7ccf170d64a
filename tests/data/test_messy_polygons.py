"""Polygons as people save them: slivers, worlds, empty files, areas beside the image."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import shapely
from rasters import GRID, UTM, noise, write

from xt.data.polygon_masks import PolygonsData
from xt.data.polygons import read_polygons
from xt.data.source import InputSpec, Source
from xt.errors import InputError

SIDE = 60
HOUSE = (10, 10, 20, 30)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in "av":
        write(tmp_path / f"images/{name}.tif", noise(1, SIDE, SIDE), crs=UTM, transform=GRID)
    save(tmp_path / "polygons.gpkg", [square(*HOUSE)])
    return tmp_path


def square(*pixels: float) -> Any:
    """From columns and rows to the map."""
    return shapely.transform(shapely.box(*pixels), lambda at: np.stack(GRID * at.T, axis=1))


def save(path: Path, shapes: list[Any], crs: str = UTM) -> Path:
    path.parent.mkdir(exist_ok=True)
    driver = {".gpkg": "GPKG", ".shp": "ESRI Shapefile"}[path.suffix]
    kind = "Polygon" if driver == "ESRI Shapefile" else "Unknown"
    geometry = shapely.to_wkb(np.array(shapes, object))
    kinds = np.array(["house"] * len(shapes), object)
    pyogrio.raw.write(str(path), geometry, [kinds], ["kind"], geometry_type=kind, crs=crs, driver=driver)
    return path


def houses(root: Path, **options: Any) -> list[int]:
    """How many pixels of the training image are ground, house and not known."""
    given = {"classes": ["ground", "house"], "column": "kind", "image_size": 32, "mean": [0], "std": [1]} | options
    data = PolygonsData(str(root), bands=["p"], validation="^v", **given)
    data.setup("fit")
    mask = data.labels.read(root / "images/a.tif")
    return [int((mask == value).sum()) for value in (0, 1, 255)]


def test_a_polygon_around_the_world_is_drawn_in_the_memory_of_the_image(root: Path):
    save(root / "world.gpkg", [shapely.box(-180, -90, 180, 90)], "EPSG:4326")
    assert houses(root, polygons="world.gpkg") == [0, SIDE**2, 0]
    assert houses(root, areas="world.gpkg") == [SIDE**2 - 200, 200, 0]


@pytest.mark.parametrize("near", [True, False])
def test_a_polygon_around_the_poles_holds_the_image(root: Path, near: bool):
    path = save(root / "world.gpkg", [shapely.box(-180, -90, 180, 90)], "EPSG:4326")
    (shape,), _ = read_polygons(path, Source(root / "images/a.tif", InputSpec(("p",), (0.0,), (1.0,))), near=near)
    assert shape.covers(shapely.box(0, 0, SIDE, SIDE))


def test_what_has_no_area_is_not_drawn_and_collections_are(root: Path):
    sliver = shapely.Polygon([square(*HOUSE).centroid, *square(30, 30, 50, 50).exterior.coords[:1] * 2])
    both = shapely.GeometryCollection([square(40, 40, 50, 50), shapely.Point(GRID * (5, 5))])
    save(root / "polygons.gpkg", [square(*HOUSE), sliver, both])
    assert houses(root) == [SIDE**2 - 300, 300, 0]


def test_an_area_that_only_touches_an_image_is_none(root: Path):
    save(root / "areas.gpkg", [square(SIDE, SIDE, SIDE + 9, SIDE + 9), square(-9, 0, 0, SIDE)])
    with pytest.raises(InputError, match=r"areas.gpkg: no polygon lies on an image of .*images; check its CRS$"):
        houses(root, areas="areas.gpkg")


def test_a_file_for_an_image_without_polygons_may_be_empty(root: Path):
    save(root / "each/a.gpkg", [square(*HOUSE)])
    (root / "each/v.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    assert houses(root, polygons="each") == [SIDE**2 - 200, 200, 0]
    save(root / "each/a.shp", [square(*HOUSE)])
    with pytest.raises(InputError, match=r"a.gpkg: a.shp is for the same image; leave one of them"):
        houses(root, polygons="each")
    save(root / "others/b.gpkg", [square(*HOUSE)])
    with pytest.raises(InputError, match="check its CRS, and that files are named as images are"):
        houses(root, polygons="others")


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_vertex_that_is_no_number_is_said(root: Path):
    corners = [*square(*HOUSE).exterior.coords[:3], (float("nan"), 5.0)]
    save(root / "polygons.gpkg", [shapely.Polygon(corners)])
    with pytest.raises(InputError, match="a polygon has a vertex whose x or y is no number; mend it"):
        houses(root)
