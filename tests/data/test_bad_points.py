import json
import warnings
from pathlib import Path

import pytest
from point_images import build, csv, form, geojson
from rasters import noise, write

from xt.data.point_files import read_points
from xt.data.points import PointsData
from xt.errors import ConfigError, InputError, LabelError, XTWarning


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
