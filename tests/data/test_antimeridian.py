"""Labels beside images in degrees that reach beyond the antimeridian."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.warp
import shapely
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine
from rasters import write

from xt.cli.main import main
from xt.data.georeference import check_same_grid, project, to_map, to_pixels, turns
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


def in_metres(path: Path, lon: float, crs: str) -> Source:
    """Of 10 km at 65 degrees north, in pixels of 10 m."""
    x, y = project("EPSG:4326", crs, np.array([lon]), np.array([65.0]))
    transform = Affine(10, 0, x[0] - 5120, 0, -10, y[0] + 5120)
    write(path, np.ones((1, 1024, 1024), np.uint8), crs=crs, transform=transform)
    return Source(path, SPEC)


@pytest.mark.parametrize(("lon", "crs"), [(-179.9, "EPSG:32601"), (179.9, "EPSG:32660"), (-171.0, "EPSG:32602")])
def test_long_edges_in_degrees_bend_there_as_elsewhere(tmp_path: Path, lon: float, crs: str):
    image = in_metres(tmp_path / "a.tif", lon, crs)
    sides = [shapely.box(side, 64, side + 1, 65) for side in (np.floor(lon), -180, 179)]
    path = collection(tmp_path / "a.geojson", *(json.loads(shapely.to_geojson(each)) for each in sides))
    found = shapely.union_all(read_polygons(path, image, near=True)[0])
    edge = np.arange(np.floor(lon), np.floor(lon) + 1, 1e-4)
    rows, cols = to_pixels(*project("EPSG:4326", crs, edge, np.full(len(edge), 65.0)), image.profile())
    inside = (cols > 0) & (cols < 1023)
    below = shapely.points(cols[inside] + 0.5, rows[inside] + 0.6)
    above = shapely.points(cols[inside] + 0.5, rows[inside] + 0.4)
    assert inside.sum() > 1000
    assert shapely.intersects(found, below).all()
    assert not shapely.intersects(found, above).any()


def test_what_is_near_an_image_there_is_read_and_no_more(tmp_path: Path):
    image = in_metres(tmp_path / "a.tif", 180.0, "EPSG:32660")
    near = [shapely.box(179.95, 64.99, 180, 65), shapely.box(-180, 64.99, -179.95, 65)]
    far = [shapely.box(lon, 64.99, lon + 1, 65) for lon in (178, -179, 0)]
    path = collection(tmp_path / "a.geojson", *(json.loads(shapely.to_geojson(each)) for each in [*far, *near]))
    found = [each for each in read_polygons(path, image, near=True)[0] if not each.is_empty]
    assert len(found) == 2
    _, cols = to_pixels(
        *project("EPSG:4326", "EPSG:32660", np.array([179.95, -179.95]), np.full(2, 65.0)), image.profile()
    )
    onward = collection(tmp_path / "b.geojson", json.loads(shapely.to_geojson(shapely.box(179.95, 64.99, 180.05, 65))))
    (whole,) = read_polygons(onward, image, near=True)[0]  # as programs of maps write it
    assert whole.symmetric_difference(shapely.union_all(found)).area < 1
    assert shapely.total_bounds(found)[[0, 2]] == pytest.approx(cols + 0.5, abs=8)  # the lower border is wider


def control_points(lon: float) -> list[GroundControlPoint]:
    """Every 8 pixels; 1e-4 degrees a column, counted from -180 to 180, and 5e-5 a row."""
    return [
        GroundControlPoint(row, col, (lon + col * 1e-4 + 180) % 360 - 180, 65 - row * 5e-5)
        for row in range(0, 65, 8)
        for col in range(0, 65, 8)
    ]


@pytest.mark.parametrize("lon", [179.997, -180.001, 20.0])
def test_control_points_on_both_sides_are_no_jump(tmp_path: Path, lon: float):
    write(tmp_path / "a.tif", np.ones((1, 64, 64), np.uint8), crs="EPSG:4326", gcps=control_points(lon))
    source = Source(tmp_path / "a.tif", SPEC)
    profile = source.profile()
    x, y = to_map(np.array([0.0, 50.0]), np.array([0.0, 40.0]), profile)
    assert (x - lon) % 360 == pytest.approx([0.5e-4, 40.5e-4], abs=1e-6)
    assert y == pytest.approx([65 - 0.5 * 5e-5, 65 - 50.5 * 5e-5], abs=1e-6)
    sides = [shapely.box(lon + turn, 65 - 30 * 5e-5, lon + turn + 50e-4, 65 - 10 * 5e-5) for turn in (-360, 0, 360)]
    cut = shapely.intersection(sides, shapely.box(-180, -90, 180, 90))
    path = collection(
        tmp_path / "a.geojson", *(json.loads(shapely.to_geojson(each)) for each in cut if not each.is_empty)
    )
    found = shapely.union_all(read_polygons(path, source, near=True)[0]).intersection(shapely.box(0, 0, 64, 64))
    assert found.symmetric_difference(shapely.box(0, 10, 50, 30)).area < 0.1


def test_control_points_around_the_globe_are_not_turned():
    points = [GroundControlPoint(r, c, c - 180, 80 - r) for r in (0, 80, 160) for c in (0, 90, 180, 270, 360)]
    x, _ = to_map(np.array([79.5]), np.array([99.5]), {"gcps": points, "crs": rasterio.CRS.from_epsg(4326)})
    assert x == pytest.approx([-80], abs=1e-6)


def test_a_grid_counted_from_the_other_side_is_the_same():
    one, other = (
        {
            "crs": rasterio.CRS.from_epsg(4326),
            "transform": Affine(0.001, 0, west, 0, -0.001, 10),
            "height": 9,
            "width": 9,
        }
        for west in STARTS
    )
    check_same_grid(Path("a"), one, Path("b"), other)


def test_long_edges_bend_by_large_pixels_too(tmp_path: Path):
    transform = Affine(5000, 0, -1e6, 0, -5000, -1e6)
    write(tmp_path / "a.tif", np.ones((1, 400, 400), np.uint8), crs="EPSG:3413", transform=transform)
    image = Source(tmp_path / "a.tif", SPEC)
    path = collection(tmp_path / "a.geojson", json.loads(shapely.to_geojson(shapely.box(-80, 60, 0, 75))))
    found = shapely.union_all(read_polygons(path, image, near=True)[0])
    lon = np.arange(-44, -10, 0.01)
    rows, cols = to_pixels(*project("EPSG:4326", "EPSG:3413", lon, np.full(len(lon), 75.0)), image.profile())
    inside = (cols > 0) & (cols < 399) & (rows > 0) & (rows < 399)
    assert inside.sum() > 1000
    assert shapely.distance(found.boundary, shapely.points(cols[inside] + 0.5, rows[inside] + 0.5)).max() < 0.1


def test_an_image_that_reaches_beyond_the_earth_takes_polygons_quietly(tmp_path: Path):
    globe = {"crs": "+proj=ortho +lat_0=0 +lon_0=0", "transform": Affine(1.4e5, 0, -7e6, 0, -1.4e5, 7e6)}
    write(tmp_path / "a.tif", np.ones((1, 100, 100), np.uint8), **globe)
    path = collection(tmp_path / "a.geojson", json.loads(shapely.to_geojson(shapely.box(0, 0, 30, 30))))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        found = shapely.union_all(read_polygons(path, Source(tmp_path / "a.tif", SPEC), near=True)[0])
    assert found.bounds == pytest.approx((50, 50 - 22.78, 50 + 22.78, 50), abs=0.2)
