"""Labels beside images in degrees that reach beyond the antimeridian."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.warp
import shapely
from rasterio.transform import Affine
from rasters import write

from xt.cli.main import main
from xt.data.georeference import turns
from xt.data.point_files import read_points
from xt.data.polygons import read_polygons
from xt.data.source import InputSpec, Source

SPEC = InputSpec(("a",), (0.0,), (1.0,))
UTM = "EPSG:32660"
STARTS = [179.95, -180.05]
"""Longitude of the left edge of an image of 100 columns, the antimeridian in its middle."""


def image(path: Path, start: float) -> Source:
    write(path, np.ones((1, 40, 100), np.uint8), crs="EPSG:4326", transform=Affine(0.001, 0, start, 0, -0.001, 10))
    return Source(path, SPEC)


def to_utm(degrees: np.ndarray) -> np.ndarray:
    return np.transpose(rasterio.warp.transform("EPSG:4326", UTM, *degrees.T))


def collection(path: Path, *geometries: dict[str, object]) -> Path:
    features = [{"type": "Feature", "properties": {"kind": "x"}, "geometry": each} for each in geometries]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


@pytest.mark.parametrize(
    ("start", "crs", "degrees"),
    [
        (130.0, "EPSG:4326", ()),
        (130.25, "EPSG:4326", (360.0,)),  # half of the last column
        (-180.0, "EPSG:4326", ()),
        (-180.25, "EPSG:4326", (-360.0,)),
        (500_000.0, "EPSG:32632", ()),
        (500_000.0, None, ()),
    ],
)
def test_a_raster_in_degrees_alone_is_turned_where_it_reaches_beyond(
    start: float, crs: str | None, degrees: tuple[float, ...]
):
    grid = {"transform": Affine(0.5, 0, start, 0, -0.5, 10), "height": 40, "width": 100}
    assert turns(grid | {"crs": None if crs is None else rasterio.CRS.from_string(crs)}) == degrees


@pytest.mark.parametrize("start", STARTS)
def test_polygons_that_are_cut_there_are_whole(tmp_path: Path, start: float):
    """As RFC 7946 wants them."""
    halves = shapely.MultiPolygon([shapely.box(179.97, 9.97, 180, 9.99), shapely.box(-180, 9.97, -179.98, 9.99)])
    far = shapely.box(-10, -20, 10, 20)
    path = collection(
        tmp_path / "a.geojson", json.loads(shapely.to_geojson(halves)), json.loads(shapely.to_geojson(far))
    )
    source = image(tmp_path / "a.tif", start)
    shapes, kinds = read_polygons(path, source, "kind", near=True)
    found = shapely.union_all(shapes).intersection(shapely.box(0, 0, 100, 40))
    assert found.symmetric_difference(shapely.box(20, 10, 70, 30)).area < 1e-6
    assert set(kinds) == {"x"}


@pytest.mark.parametrize("start", STARTS)
def test_polygons_in_metres_that_cross_it_are_not_torn(tmp_path: Path, start: float):
    across = shapely.transform(shapely.box(179.97, 9.97, 180.02, 9.99), to_utm)
    east = shapely.transform(shapely.box(179.96, 9.965, 179.965, 9.97), to_utm)
    path = collection(tmp_path / "a.geojson", *(json.loads(shapely.to_geojson(each)) for each in (across, east)))
    layer = json.loads(path.read_text()) | {"crs": {"type": "name", "properties": {"name": UTM}}}
    path.write_text(json.dumps(layer))
    shapes, _ = read_polygons(path, image(tmp_path / "a.tif", start))
    found = shapely.union_all(shapes).intersection(shapely.box(0, 0, 100, 40))
    want = shapely.union(shapely.box(20, 10, 70, 30), shapely.box(10, 30, 15, 35))
    assert found.symmetric_difference(want).area < 2


def test_polygons_of_no_place_are_left_out(tmp_path: Path):
    """Metres that no meridian has: what lies at the border of a projection's domain, or with a wrong CRS."""
    inside = shapely.transform(shapely.box(179.97, 9.97, 179.99, 9.99), to_utm)
    nowhere = shapely.box(1e9, 1e9, 2e9, 2e9), shapely.box(3e9, 1e9, 4e9, 2e9)
    shapes = [json.loads(shapely.to_geojson(each)) for each in (*nowhere, inside)]
    path = collection(tmp_path / "a.geojson", *shapes)
    layer = json.loads(path.read_text()) | {"crs": {"type": "name", "properties": {"name": UTM}}}
    layer["features"][2]["properties"]["kind"] = "y"
    path.write_text(json.dumps(layer))
    found, kinds = read_polygons(path, image(tmp_path / "a.tif", STARTS[0]), "kind")
    assert len(kinds) == len(found)
    assert set(kinds) == {"y"}
    [shape] = [each for each in found if each.intersects(shapely.box(0, 0, 100, 40))]
    assert shape.symmetric_difference(shapely.box(20, 10, 40, 30)).area < 1


@pytest.mark.parametrize("start", STARTS)
def test_points_on_both_sides_are_found(tmp_path: Path, start: float):
    points = [(179.96, 9.99), (-179.99, 9.98), (0.0, 9.98)]
    path = collection(tmp_path / "a.geojson", *({"type": "Point", "coordinates": list(each)} for each in points))
    table = read_points(path, {"a": image(tmp_path / "a.tif", start)})
    assert table.column.tolist() == pytest.approx([9.5, 59.5])
    assert table.row.tolist() == pytest.approx([9.5, 19.5])


@pytest.mark.parametrize("start", STARTS)
def test_a_map_and_its_polygons_say_the_same(tmp_path: Path, start: float, capsys: pytest.CaptureFixture[str]):
    pixels = np.kron(np.random.default_rng(0).integers(0, 3, (4, 10)), np.ones((10, 10))).astype(np.uint8)
    grid = {"crs": "EPSG:4326", "transform": Affine(0.001, 0, start, 0, -0.001, 10)}
    write(tmp_path / "map.tif", pixels, **grid)
    assert main(["vectorize", str(tmp_path / "map.tif"), "-o", str(tmp_path / "map.geojson")]) == 0
    capsys.readouterr()
    assert main(["score", str(tmp_path / "map.tif"), str(tmp_path / "map.geojson"), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores["iou"], scores["iou_0"], scores["pixels"]) == (1, 1, 4000)
