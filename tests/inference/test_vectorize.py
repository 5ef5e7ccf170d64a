"""``xt vectorize``: what is written of a map, where it lies, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyogrio
import pytest
import rasterio
import rasterio.warp
import shapely
import shapely.geometry
from rasterio.control import GroundControlPoint
from rasterio.features import shapes
from rasterio.transform import Affine
from small_inputs import raster, save
from small_maps import SHEARED, UTM, classes, named

import xt
from xt.cli.main import main
from xt.data.georeference import to_map
from xt.inference import vectorize
from xt.inference.polygons import Polygon


def layer(path: Path) -> tuple[dict[str, Any], list[Any], dict[str, list[Any]]]:
    """Facts, geometries, and columns."""
    meta, _, geometry, values = pyogrio.raw.read(path)
    columns = {str(name): list(each) for name, each in zip(meta["fields"], values, strict=True)}
    return meta, list(shapely.from_wkb(geometry)), columns


def expected(array: npt.NDArray[Any], counts: npt.NDArray[np.bool_], transform: Affine) -> set[tuple[int, bytes]]:
    found = shapes(array, counts, connectivity=4, transform=transform)
    return {(int(value), same(shapely.geometry.shape(each))) for each, value in found}


def same(shape: Any) -> bytes:
    return shapely.to_wkb(shapely.normalize(shape))


@pytest.mark.usefixtures("small_steps")
def test_polygons_are_those_of_the_whole_map(tmp_path: Path):
    array = classes()
    array[:9, 20:40] = 255
    path = named(tmp_path / "a.tif", array, nodata=255, **UTM)
    done: list[tuple[int, int]] = []
    result = xt.vectorize(path, tmp_path / "o.gpkg", progress=lambda *now: done.append(now))
    meta, found, columns = layer(tmp_path / "o.gpkg")
    assert {(value, same(each)) for value, each in zip(columns["class"], found, strict=True)} == expected(
        array, array != 255, SHEARED
    )
    assert "32632" in meta["crs"]
    assert columns["name"] == [("sea", "land", "ice")[value] for value in columns["class"]]
    assert sum(columns["pixels"]) == (array != 255).sum()
    np.testing.assert_allclose(columns["area_m2"], [each.area for each in found])
    np.testing.assert_allclose(columns["area_m2"], np.array(columns["pixels"]) * 66)  # 9 · 8 − 2 · 3
    assert done[-1] == (70, 70)
    assert len(done) == 14
    assert result.polygons == len(found) == sum(result.by_class.values())
    assert result.by_class == {name: columns["name"].count(name) for name in ("sea", "land", "ice")}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "o.gpkg"]


REAL = [pytest.param("landcover_palette_7168x8704.tif", marks=pytest.mark.slow), "sen1floods11_Spain_LabelHand.tif", "watermask_10922x6110_antimeridian.tif", "s1_grd_gcps_no_crs.tif"]  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_maps(shared_data: Path, tmp_path: Path, name: str):
    path = shared_data / "rasters" / name
    with rasterio.open(path) as dataset:
        array, counts = dataset.read(1), dataset.read_masks(1) > 0
        transform = dataset.transform
    if name.startswith("s1"):
        counts &= array > np.percentile(array, 99.9)
        path = raster(tmp_path / "a.tif", np.where(counts, array // 500, 65535).astype(np.uint16)[None], nodata=65535)
        array, transform = array // 500, Affine.identity()
    xt.vectorize(path, tmp_path / "o.gpkg")
    _, found, columns = layer(tmp_path / "o.gpkg")
    got = {(value, same(each)) for value, each in zip(columns["class"], found, strict=True)}
    want = expected(array, counts, transform)
    assert len(got) == len(want)
    assert {value for value, _ in got} == {value for value, _ in want}
    areas = [sorted((value, round(shapely.from_wkb(each).area, 6)) for value, each in every) for every in (got, want)]
    np.testing.assert_allclose(*areas, rtol=1e-6)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_map(tmp_path: Path):
    code = """if True:
        import re, xt
        from pathlib import Path
        from xt.data import geotiff
        from xt.inference import vectorize
        geotiff.CACHE_BYTES, vectorize.BATCH_CORNERS = 8 << 20, 1 << 14  # what is bounded anyway
        for name in ("small", "large"):
            xt.vectorize(f"{name}.tif", f"{name}.geojson")
            print(int(re.search("VmHWM:\\s*([0-9]+) kB", Path("/proc/self/status").read_text())[1]) >> 10)"""
    tile = np.kron(classes(500, 250, seed=3), np.ones((4, 4), np.uint8))
    for name, times in (("small", 2), ("large", 20)):
        raster(tmp_path / f"{name}.tif", np.tile(tile, (times, 1))[None], compress="deflate")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    small, large = map(int, done.stdout.split())
    assert large - small < 25  # MiB; all polygons at once take 80 more, all rows 150


def test_polygons_are_written_in_batches_of_many_corners(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vectorize, "BATCH_CORNERS", 12)
    squares = [Polygon(value, [np.zeros((5, 2), np.int32)]) for value in range(7)]
    assert [[each.value for each in batch] for batch in vectorize._batches(iter(squares))] == [
        [0, 1, 2],
        [3, 4, 5],
        [6],
    ]


@pytest.mark.parametrize("kind", ["affine", "gcps", "none", "no CRS"])
def test_they_lie_where_the_pixels_are(tmp_path: Path, kind: str):
    array = np.zeros((200, 300), np.uint8)
    array[100:120, 70:75] = 1
    corners = [GroundControlPoint(r, c, *(SHEARED @ (c, r))) for r in (0, 100, 200) for c in (0, 150, 300)]
    options: dict[str, Any] = {
        "affine": UTM, "gcps": {"gcps": corners, "crs": "EPSG:32632"}, "none": {}, "no CRS": {"transform": SHEARED},
    }[kind]  # fmt: skip
    path = raster(tmp_path / "a.tif", array[None], nodata=0, **options)
    want = shapely.box(70, 100, 75, 120)
    if kind != "none":
        want = shapely.transform(want, lambda at: np.array([SHEARED @ tuple(each) for each in at]))
    xt.vectorize(path, tmp_path / "o.gpkg")
    meta, (found,), columns = layer(tmp_path / "o.gpkg")
    assert found.symmetric_difference(want).area < 1e-6 * want.area
    assert ("32632" in str(meta["crs"])) == (kind in ("affine", "gcps"))
    assert columns["pixels"] == [100]
    np.testing.assert_allclose(columns["area_m2"], [6600 if kind in ("affine", "gcps") else np.nan])
    xt.vectorize(path, tmp_path / "o.geojson")
    (feature,) = json.loads((tmp_path / "o.geojson").read_text())["features"]
    assert (feature["properties"]["class"], feature["properties"]["name"]) == (1, None)
    shape = shapely.geometry.shape(feature["geometry"])
    if kind in ("affine", "gcps"):
        want = shapely.transform(want, lambda at: np.array(rasterio.warp.transform("EPSG:32632", "EPSG:4326", *at.T)).T)
        assert shape.exterior.is_ccw
    assert shape.symmetric_difference(want).area < 2e-3 * want.area  # seven decimals: a centimetre


def test_edges_bend_with_the_map(tmp_path: Path):
    """A square of 1,000 km in UTM: its edges are no straight lines in longitude and latitude."""
    far = Affine(1000.0, 0, 0.0, 0, -1000.0, 7_000_000.0)
    path = raster(tmp_path / "a.tif", np.ones((1, 1000, 1000), np.uint8), crs="EPSG:32632", transform=far)
    xt.vectorize(path, tmp_path / "o.geojson")
    _, (found,), _ = layer(tmp_path / "o.geojson")
    (lon,), (lat,) = rasterio.warp.transform("EPSG:32632", "EPSG:4326", [500_000.0], [7_000_000.0])
    assert found.exterior.distance(shapely.Point(lon, lat)) < 0.05
    assert shapely.convex_hull(found).exterior.distance(shapely.Point(lon, lat)) < 0.05


AROUND_THE_POLE = Affine(1000.0, 0, -150_300.0, 0, -1000.0, 100_000.0)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:3413", AROUND_THE_POLE),
        ("EPSG:3413", Affine(1000.0, 0, -400_000.0, 0, -1000.0, -1_000_000.0)),
        ("EPSG:32632", Affine(0.005, 0, 500_000.0, 0, -0.005, 5_400_000.0)),
    ],
)
def test_a_geojson_tells_each_pixel_as_the_map_does(tmp_path: Path, crs: str, transform: Affine):
    array = np.kron(np.random.default_rng(0).integers(1, 4, (40, 6)), np.ones((5, 50))).astype(np.uint8)
    array[0] = 1
    if transform == AROUND_THE_POLE and pyogrio.__gdal_version__ < (3, 12):
        pytest.skip("GDAL 3.9 cuts polygons around the pole wrongly at the antimeridian, 3.12 does not")
    path = raster(tmp_path / "a.tif", array[None], crs=crs, transform=transform)
    xt.vectorize(path, tmp_path / "o.geojson")
    _, found, columns = layer(tmp_path / "o.geojson")
    rows, cols = np.indices(array.shape).reshape(2, -1) + 0.5
    x, y = rasterio.warp.transform(crs, "EPSG:4326", *(transform @ (cols, rows)))
    told = np.zeros(array.size, int)
    for shape, value in zip(found, columns["class"], strict=True):
        shapely.prepare(shape)
        told += value * shapely.contains_xy(shape, x, y)
    assert (told == array.ravel()).all()


def test_edges_bend_where_control_points_do(tmp_path: Path):
    corners = [
        GroundControlPoint(r, c, 10 * c, (c - 300) ** 2 / 30 - 10 * r) for r in (0, 300, 600) for c in (0, 300, 600)
    ]
    path = raster(tmp_path / "a.tif", np.ones((1, 600, 600), np.uint8), gcps=corners, crs="EPSG:32632")
    xt.vectorize(path, tmp_path / "o.gpkg")
    _, (found,), columns = layer(tmp_path / "o.gpkg")
    assert len(found.exterior.coords) > 2 * 600 / 64
    edge = np.arange(601.0)
    for row in (0, 600):
        places = to_map(np.full(601, row - 0.5), edge - 0.5, {"gcps": corners, "crs": None})
        assert shapely.distance(found.exterior, shapely.points(*places)).max() < 10 * 0.02
    assert columns["area_m2"] == pytest.approx([shapely.area(found)], rel=1e-6)


def test_the_band_that_is_asked_for_gives_values_and_names(tmp_path: Path):
    path = raster(tmp_path / "a.tif", np.stack([np.zeros((4, 5), np.uint8), np.full((4, 5), 2, np.uint8)]))
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(1, CLASS_0="no", CLASS_2="wrong")
        dataset.update_tags(2, CLASS_2="ice")
    result = xt.vectorize(path, tmp_path / "o.gpkg", band=2)
    assert result.by_class == {"ice": 1}


def test_geojson_is_cut_at_the_antimeridian(tmp_path: Path):
    place = {"crs": "EPSG:32660", "transform": Affine(10.0, 0, 650_000.0, 0, -10.0, 6_000_000.0)}
    path = raster(tmp_path / "a.tif", np.ones((1, 20, 9000), np.uint8), **place)
    xt.vectorize(path, tmp_path / "o.geojson")
    _, (found,), _ = layer(tmp_path / "o.geojson")
    assert found.geom_type == "MultiPolygon"
    assert sorted(round(each.bounds[0]) for each in found.geoms) == [-180, 179]
    assert all(each.bounds[2] - each.bounds[0] < 2 for each in found.geoms)


def test_a_map_with_a_crs_and_no_place_has_the_area_of_its_grid(tmp_path: Path):
    path = raster(tmp_path / "a.tif", classes(8, 8)[None], crs="EPSG:32632")
    xt.vectorize(path, tmp_path / "o.gpkg")
    _, found, columns = layer(tmp_path / "o.gpkg")
    assert columns["area_m2"] == pytest.approx([each.area for each in found])


def test_a_grid_that_lies_nowhere_on_earth_keeps_its_coordinates(tmp_path: Path):
    local = 'LOCAL_CS["site",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'
    path = named(tmp_path / "a.tif", classes(8, 8), crs=local, transform=Affine(2.0, 0, 500.0, 0, -2.0, 7000.0))
    xt.vectorize(path, tmp_path / "a.geojson")
    content = json.loads((tmp_path / "a.geojson").read_text())
    bounds = [shapely.geometry.shape(each["geometry"]).bounds for each in content["features"]]
    assert (min(x for x, *_ in bounds), max(y for *_, y in bounds)) == (500, 7000)


def test_classes_are_chosen_by_name_or_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = named(tmp_path / "a.tif", classes(), **UTM)
    argv = ["vectorize", str(path), "-o", str(tmp_path / "o.gpkg"), "--overwrite", "--json", "--classes"]
    assert main([*argv, "ice", "0"]) == 0
    assert sorted(json.loads(capsys.readouterr().out)["by_class"]) == ["ice", "sea"]
    assert set(layer(tmp_path / "o.gpkg")[2]["class"]) == {0, 2}
    assert main([*argv, "7"]) == 0
    assert json.loads(capsys.readouterr().out)["polygons"] == 0
    meta, found, _ = layer(tmp_path / "o.gpkg")
    assert ("32632" in meta["crs"], found) == (True, [])
    assert main([*argv, "lnad"]) == 2
    assert "no class 'lnad'; did you mean 'land'?" in capsys.readouterr().err


def test_a_name_comes_before_a_number_and_nodata_is_no_class(tmp_path: Path):
    array = np.array([[-3, 1, 2], [-3, 1, 2]], np.int16)
    path = raster(tmp_path / "a.tif", array[None], nodata=1)
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(1, CLASS_2="1")
    for wanted, found in (([-3], {"-3": 1}), (["-3"], {"-3": 1}), (["1"], {"1": 1}), ([1], {})):
        result = xt.vectorize(path, tmp_path / "o.gpkg", classes=wanted, overwrite=True)
        assert result.by_class == found
        assert layer(tmp_path / "o.gpkg")[2]["class"] == ([2] if found == {"1": 1} else [-3] * len(found))
    assert xt.vectorize(path, tmp_path / "o.gpkg", nodata=-3, overwrite=True).by_class == {"1": 1}


@pytest.mark.parametrize("kind", ["m²", "px"])
def test_small_ones_are_left_out(tmp_path: Path, kind: str):
    array = np.zeros((20, 20), np.uint8)
    array[2:4, 2:4], array[10:13, 10:13] = 1, 2
    grid = {"crs": "EPSG:32632", "transform": Affine(10.0, 0, 0, 0, -10.0, 0)}
    path = raster(tmp_path / "a.tif", array[None], nodata=0, **(grid if kind == "m²" else {}))
    smallest = 900 if kind == "m²" else 9
    for limit, want in ((smallest, [2]), (smallest + 0.1, []), (smallest / 9 * 4, [1, 2])):
        xt.vectorize(path, tmp_path / "o.gpkg", min_area=limit, overwrite=True)
        assert layer(tmp_path / "o.gpkg")[2]["class"] == want


def test_feet_are_metres_too(tmp_path: Path):
    grid = {"crs": "EPSG:2263", "transform": Affine(10.0, 0, 980_000, 0, -10.0, 200_000)}
    path = raster(tmp_path / "a.tif", np.ones((1, 3, 4), np.uint8), **grid)
    xt.vectorize(path, tmp_path / "o.gpkg")
    assert layer(tmp_path / "o.gpkg")[2]["area_m2"] == pytest.approx([1200 * 0.3048**2], rel=1e-4)


def test_simpler_borders_stay_near(tmp_path: Path):
    row, col = np.indices((80, 80))
    array = (np.hypot(row - 40, col - 40) < 30).astype(np.uint8)
    path = raster(tmp_path / "a.tif", array[None], nodata=0, **UTM)
    xt.vectorize(path, tmp_path / "o.gpkg")
    xt.vectorize(path, tmp_path / "s.gpkg", simplify=1.5)
    (_, (plain,), before), (_, (simple,), after) = layer(tmp_path / "o.gpkg"), layer(tmp_path / "s.gpkg")
    assert len(simple.exterior.coords) < len(plain.exterior.coords) / 4
    assert shapely.hausdorff_distance(plain, simple) < 1.5 * 12
    assert simple.is_valid
    assert before == after


def test_a_prediction_becomes_polygons(tmp_path: Path):
    image = raster(tmp_path / "a.tif", np.random.default_rng(0).normal(50, 30, (1, 150, 140)).astype(np.float32), **UTM)
    model = save(tmp_path / "m", "semantic-segmentation", 1)
    assert main(["predict", str(image), "-m", str(model), "-o", str(tmp_path / "o.tif")]) == 0
    assert main(["vectorize", str(tmp_path / "o.tif"), "-o", str(tmp_path / "o.gpkg")]) == 0
    _, _, columns = layer(tmp_path / "o.gpkg")
    with rasterio.open(tmp_path / "o.tif") as dataset:
        array = dataset.read(1)
    for value, name in enumerate("abc"):
        mine = [size for each, size in zip(columns["name"], columns["pixels"], strict=True) if each == name]
        assert sum(mine) == (array == value).sum()
