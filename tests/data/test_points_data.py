import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.warp
import shapely
from rasterio.transform import Affine
from rasters import GRID, UTM, noise, write

from xt.data.point_files import read_points
from xt.data.points import PointsData
from xt.errors import ConfigError, InputError, LabelError, XTWarning
from xt.geometry.grid import Window

PLACES = {"a": [(10, 20), (70, 33)], "b": [(5, 5)], "v": [(60, 80), (0, 0), (89, 99)]}
EAST = {"a": 0, "b": 2000, "v": 4000}


def transform(name: str) -> Affine:
    return Affine(10, 0, GRID.c + EAST[name], 0, -10, GRID.f)


@pytest.fixture
def root(tmp_path: Path) -> Path:
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


@pytest.mark.parametrize(
    "kind",
    ["pixels", "xview3", "map", "map of scenes", "folder", "geojson", "gpkg", "boxes", "shp", "fgb", "csv boxes"],
)
def test_objects_are_found_where_the_image_is_bright(root: Path, kind: str):
    data = build(root, form(root, kind), crops_per_scene=30, flips=kind == "pixels")
    assert {name: len(data.objects.scene(name)) for name in "abcv"} == {"a": 2, "b": 1, "c": 0, "v": 3}
    seen = 0
    for index in range(90):
        sample = data.datasets["train"][0, index]
        shown = {tuple(each) for each in np.argwhere(sample["image"][0] > 5).tolist()}
        peaks = {tuple(each) for each in np.argwhere(sample["targets"]["center"][0] == 255).tolist()}
        assert shown == peaks
        assert len(sample["points"]) == len(peaks)
        seen += len(peaks)
    assert seen > 30
    tiles = [data.datasets["validation"][0, index] for index in range(len(data.datasets["validation"]))]
    assert len(tiles) == 4
    got = sorted(
        (round(r), round(c)) for tile in tiles for r, c in zip(tile["points"].row, tile["points"].column, strict=True)
    )
    assert got == sorted(PLACES["v"])
    assert set(tiles[0]) == {"image", "valid", "targets", "name", "scene_id", "origin", "points"}


@pytest.mark.parametrize(("tile", "tiles"), [(None, 4), (100, 1), (50, 4)])
def test_validation_tiles_have_a_size_of_their_own(root: Path, tile: int | None, tiles: int):
    data = build(root, form(root, "pixels"), validation_tile=tile)
    split = data.datasets["validation"]
    assert len(split) == tiles
    assert {split[0, index]["image"].shape[-1] for index in range(tiles)} == {tile or 64}
    assert sum(len(split[0, index]["points"]) for index in range(tiles)) == 3
    assert data.datasets["train"][0, 0]["image"].shape[-1] == 64


def test_centres_are_as_wide_as_asked_for_and_reach_into_crops(root: Path):
    data = build(root, form(root, "pixels"), validation_tile=64, center_sigma=5.0)
    center = data.datasets["validation"][0, 0]["targets"]["center"][0]
    assert (center[0, 0], center[0, 5]) == (255, round(255 * np.exp(-0.5)))
    # The object at row 60, column 80 lies in the tile to the right.
    assert center[60, 63] == round(255 * np.exp(-(17**2) / 50))


@pytest.mark.parametrize(("flips", "num"), [(False, 2), (True, 8)])
def test_crops_are_seen_in_two_or_eight_ways(root: Path, flips: bool, num: int):
    crops = build(root, form(root, "pixels"), image_size=100, flips=flips, crops_per_scene=60).datasets["train"]
    pixels, _ = crops.readers[0].read(Window(0, 0, 100, 100))
    turns = [lambda values, k=k: np.rot90(values, k, (1, 2)) for k in range(4)]
    views = [turns[0], turns[2]] if not flips else turns + [lambda v, t=t: t(v).swapaxes(1, 2) for t in turns]
    seen = {np.asarray(crops[0, index]["image"]).tobytes() for index in range(0, 180, 3)}
    assert seen == {np.ascontiguousarray(view(pixels)).tobytes() for view in views}
    assert len(seen) == num


def test_gain_scales_training_crops_before_normalisation(root: Path):
    plain, scaled = (
        build(root, form(root, "pixels"), mean=[-10.0] * 2, std=[2.0] * 2, gain=gain) for gain in (0.0, 0.5)
    )
    factors = []
    for index in range(12):
        one, other = ((2 * data.datasets["train"][0, index]["image"] - 10) for data in (plain, scaled))
        factors.append(float(np.median(other / one)))
        np.testing.assert_allclose(other, factors[-1] * one, rtol=1e-3, atol=1e-4)
    assert 0.2 < np.log(factors).std() < 1
    same = (data.datasets["validation"][0, 0]["image"] for data in (plain, scaled))
    np.testing.assert_array_equal(*same)


@pytest.mark.parametrize("kind", ["gpkg", "shp"])
def test_what_is_not_said_is_unknown(root: Path, kind: str):
    table = build(root, form(root, kind)).objects
    assert np.isnan(table.is_vessel).all()
    assert np.isnan(table.is_fishing).all()
    assert sorted(table.vessel_length_m[~np.isnan(table.vessel_length_m)].tolist()) == [40, 50, 60, 70, 80]
    assert set(table.confidence) == {"HIGH"}
    assert build(root, form(root, "pixels")).objects.confidence.tolist() == ["HIGH"] * 6
    assert np.isnan(build(root, form(root, "map of scenes")).objects.is_fishing).all()
    assert sorted(build(root, form(root, "geojson")).objects.is_vessel.tolist()) == [0, 0, 0, 1, 1, 1]


def test_statistics_are_measured_and_scene_folders_are_read(tmp_path: Path):
    bands = {}
    for name in ("a", "v"):
        for band, seed in (("p", 1), ("q", 2)):
            bands[band] = noise(40, 50, seed=seed)
            write(tmp_path / f"images/{name}/{band}.tif", bands[band], crs=UTM, transform=GRID)
        write(
            tmp_path / f"images/{name}/depth.tif",
            noise(5, 6),
            crs=UTM,
            transform=Affine(100, 0, 500_000, 0, -100, 6_000_000),
        )
    csv(tmp_path / "points.csv", "row,column,scene_id", [(4, 5, "a"), (3, 3, "elsewhere")])
    data = PointsData(str(tmp_path), ["p", "q", "depth"], "^v", coarse=["depth"], image_size=32)
    data.setup("fit")
    np.testing.assert_allclose(data.mean[:2], [bands["p"].mean(), bands["q"].mean()], rtol=1e-5)
    assert data.inputs.coarse == ("depth",)
    assert data.datasets["train"][0, 0]["image"].shape == (3, 32, 32)
    assert len(data.objects) == 1


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("lat,lon", [(1, 2)], "give columns row and column, or x and y.*its columns: 'lat', 'lon'"),
        ("scene_id;row;column", [("a;1;2",)], r"separated by commas \(its columns: 'scene_id;row;column'\)"),
        (
            "row,column,scene_id",
            [(1, 2, "a.tif"), (1, 2, "b.tif")],
            r"none of its 2 .* 'a.tif' is the name of none, 'a'",
        ),
        ("x,y", [(9.5, 54.1)], r"none of its 1 .* check x and y: the first is 9.5, 54.1, a is in EPSG:32632"),
        ("row,column,scene_id", [], "no training image has an object"),
        ("row,column,scene_id", [(1, 2, "v")], "no training image has an object"),
        ("row,column", [(1, 2)], "pixels of which scene"),
        (
            "row,column,scene_id",
            [(1, 2, "a"), (1, 200, "a")],
            r"1 of 2 objects lie outside their image, such as row 1.0, column 200.0 of a \(90 × 100 px\); check",
        ),
        (
            "row,column,scene_id",
            [("x", 2, "a"), (1, 2, "a"), (-3, 2, "a")],
            r"2 bad rows \(line 2: row .*; line 4: row",
        ),
        ("row,column,scene_id,is_vessel", [(1, 2, "a", "maybe")], "line 2: is_vessel 'maybe' is not True"),
        ("x,y,scene_id", [(0, 0, "a")], "1 of 1 objects lie outside their image, such as .* of a "),
        ("x,y,scene_id", [(5, 5, "c")], r"c\.tif: no georeference, so the points of"),
    ],
)
def test_bad_points_are_said(root: Path, header: str, rows: list, message: str):
    csv(root / "p.csv", header, rows)
    with pytest.raises(LabelError, match=message):
        build(root, "p.csv")


def test_a_split_without_images_is_said(root: Path):
    points = form(root, "pixels")
    for given in ({}, {"mean": [0.0] * 2, "std": [1.0] * 2}):
        data = PointsData(str(root), ["p", "q"], "^none", points=points, image_size=64, **given)
        with pytest.raises(InputError, match=r"no validation image: validation '\^none'.*; names are such as 'a'"):
            data.dataset("train")
    with pytest.raises(InputError, match=r"no train image: validation '\.'"):
        PointsData(str(root), ["p", "q"], ".", points=points, image_size=64).dataset("test")


def test_bad_rows_can_be_left_out_and_are_counted(root: Path):
    csv(root / "p.csv", "row,column,scene_id", [("x", 2, "a"), (1, 2, "a"), (1, 200, "a"), (9, 3, "a"), (5, 101, "a")])
    with pytest.warns(XTWarning) as told:
        objects = build(root, "p.csv", drop_bad_labels=True).objects
    assert [tuple(each) for each in zip(objects.row, objects.column, strict=True)] == [(1, 2), (9, 3)]
    assert [str(each.message).partition(": ")[2] for each in told] == [
        "1 bad rows (line 2: row 'x' is no number) are left out",
        "2 of 4 objects lie outside their image, such as row 1.0, column 200.0 of a (90 × 100 px), and are left out",
    ]


def test_files_that_are_not_what_they_are_called(root: Path):
    (root / "p.gpkg").write_text("<OGRVRTDataSource/>")
    (root / "p.geojson").write_text("<OGRVRTDataSource/>")
    (root / "p.shp").write_text("<OGRVRTDataSource/>")
    for name, kind in (("p.gpkg", "GeoPackage"), ("p.geojson", "GeoJSON"), ("p.shp", "shapefile")):
        with pytest.raises(LabelError, match=rf"{name}: is no {kind}"):
            build(root, name)
    (root / "p.geojson").write_text('{"type": "Feature')
    with pytest.raises(LabelError, match="cannot be read as GeoJSON"):
        build(root, "p.geojson")
    for name in ("none.csv", "none.gpkg"):
        with pytest.raises(LabelError, match=r"(?i)none\.\w+: no such file"):
            build(root, name)
    (root / "empty").mkdir()
    with pytest.raises(LabelError, match=r"no file SCENE\.csv"):
        build(root, "empty")
    line = {"type": "Feature", "properties": {}, "geometry": {"type": "LineString", "coordinates": [[0, 0], [1, 1]]}}
    (root / "p.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [line]}))
    with pytest.raises(LabelError, match="feature 1 is no point or polygon"):
        build(root, "p.geojson")
    line["geometry"] = {"type": "Polygon", "coordinates": []}
    (root / "p.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [line]}))
    with pytest.raises(LabelError, match="feature 1 is no point or polygon"):
        build(root, "p.geojson")


def test_wrong_options_name_their_key(root: Path):
    for options, message in (
        ({"centred": 2}, "centred is 2"),
        ({"mean": [1.0, 1.0]}, "both mean and std"),
        ({"crops_per_scene": 0}, "crops_per_scene"),
        ({"validation_tile": 0}, "validation_tile"),
        ({"gain": -1}, "gain"),
        ({"center_sigma": 0}, "center_sigma is 0; it must lie between 1 and 10"),
    ):
        with pytest.raises(ConfigError, match=message):
            build(root, "p.csv", **options)
    with pytest.raises(ConfigError, match="is no regular expression"):
        PointsData(str(root), ["p", "q"], "[")
    write(root / "images/a.tiff", noise(2, 9, 9))
    with pytest.raises(InputError, match=r"a\.tiff: a\.tif has this name too"):
        build(root, form(root, "pixels"))
    with pytest.raises(InputError, match="no folder"):
        PointsData(str(root / "none"), ["p"], "v").setup("fit")


def test_a_file_of_an_image_is_one_and_is_named_as_the_image(root: Path):
    form(root, "folder")
    csv(root / "p/c_typo.csv", "row,column", [(1, 2)])
    with pytest.warns(
        XTWarning, match=r"p: 1 files of objects are for no image, such as c_typo; name each as its image"
    ):
        build(root, "p")
    geojson(root / "p/a.geojson", ["a"])
    with pytest.raises(InputError, match=r"p/a\.csv: a\.geojson is for the same image; leave one of them"):
        build(root, "p")


def test_objects_at_the_edges_of_tiles_are_in_one_each(root: Path):
    """Row 63.6 is nearest to the first of the second tile, and -0.4 to the first of the image."""
    csv(
        root / "p.csv",
        "scene_id,row,column",
        [("v", -0.4, 20), ("v", 20, -0.5), ("v", 63.6, 5), ("v", 63.4, 70), ("v", 63.5, 9), ("a", 1, 1)],
    )
    tiles = build(root, "p.csv").datasets["validation"]
    got = sorted((*tiles[0, i]["origin"], round(r, 1)) for i in range(len(tiles)) for r in tiles[0, i]["points"].row)
    assert [each[2] for each in got if each[:2] == (0, 0)] == [-0.4, 20]
    assert len(got) == 5


def test_of_some_scenes_the_files_of_others_are_no_strays(root: Path):
    form(root, "folder")
    scenes = {each.name: each for group in build(root, "p").sources.values() for each in group}
    with warnings.catch_warnings():
        warnings.simplefilter("error", XTWarning)
        assert len(read_points(root / "p", {"a": scenes["a"]}))


def test_text_is_no_flatgeobuf(root: Path):
    (root / "p.fgb").write_text("row,column\n1,2\n")
    with pytest.raises(LabelError, match=r"p\.fgb: is no FlatGeobuf; write it again"):
        build(root, "p.fgb")
