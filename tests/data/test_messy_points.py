"""Tables and layers of points as people save them."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio.warp
import shapely
from rasters import GRID, UTM, noise, write

from xt.data.point_files import read_points
from xt.data.points import PointsData
from xt.data.source import InputSpec, Source
from xt.errors import ConfigError, LabelError, XTWarning


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "images/a.tif", noise(1, 60, 60), crs=UTM, transform=GRID)
    write(tmp_path / "images/v.tif", noise(1, 60, 60), crs=UTM, transform=GRID)
    return tmp_path


def at(row: float, col: float) -> Any:
    return shapely.Point(GRID * (col + 0.5, row + 0.5))


def save(path: Path, shapes: list[Any], **columns: list[Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    values = [np.array(each, object if isinstance(each[0], str) else None) for each in columns.values()]
    geometry = shapely.to_wkb(np.array(shapes, object))
    pyogrio.raw.write(str(path), geometry, values, list(columns), geometry_type="Unknown", crs=UTM, driver="GPKG")


def objects(root: Path, points: str, **options: Any) -> list[tuple[str, float, float, str]]:
    given = {"bands": ["p"], "image_size": 32, "mean": [0], "std": [1]} | options
    data = PointsData(str(root), validation="^v", points=points, **given)
    data.setup("fit")
    found = data.objects
    return [(s, r, c, k) for s, r, c, k in zip(found.scene_id, found.row, found.column, found.label, strict=True)]


def test_a_class_may_stand_in_a_column_that_means_something_else(root: Path):
    save(root / "p.gpkg", [at(1, 2), at(3, 4)], confidence=["HIGH", "LOW"], scene_id=["a", "v"])
    got = objects(root, "p.gpkg", classes=["HIGH", "LOW"], column="confidence")
    assert [each[3] for each in got] == ["HIGH", "LOW"]
    for column in ("scene_id", "x", "row"):
        with pytest.raises(ConfigError, match=rf"column is '{column}', which says where an object lies; name another"):
            objects(root, "p.gpkg", classes=["a", "v"], column=column)


def test_the_column_of_classes_is_asked_for_by_its_option(root: Path):
    save(root / "p.gpkg", [at(1, 2), at(3, 4)], kinds=["a", "b"], scene_id=["a", "v"])
    told = r"p\.gpkg: no column 'kind'; did you mean 'kinds'\?; name the column of classes by data.init_args.column"
    with pytest.raises(LabelError, match=told):
        objects(root, "p.gpkg", classes=["a", "b"], column="kind")
    with pytest.raises(LabelError, match="no column 'species'; known: kinds; name"):
        objects(root, "p.gpkg", classes=["a", "b"], column="species")


def test_classes_may_be_numbers_and_one_may_be_missing(root: Path):
    save(root / "p.gpkg", [at(1, 2), at(3, 4)], kind=[2.0, np.nan], scene_id=["a", "v"])
    got = objects(root, "p.gpkg", classes=["1", "2"], column="kind", drop_bad_labels=True)
    assert got == [("a", 1, 2, "2")]


def test_a_collection_of_one_point_is_a_point(root: Path):
    save(root / "p.gpkg", [shapely.MultiPoint([at(1, 2)])], scene_id=["a"])
    assert objects(root, "p.gpkg") == [("a", 1, 2, "")]
    save(root / "q.gpkg", [shapely.MultiPoint([at(1, 2), at(3, 4)])], scene_id=["a"])
    with pytest.raises(LabelError, match="feature 1 is no point or polygon"):
        objects(root, "q.gpkg")


def test_bad_geometry_can_be_left_out(root: Path):
    line = shapely.LineString([GRID * (1, 1), GRID * (9, 9)])
    save(root / "p.gpkg", [None, at(1, 2), shapely.Polygon(), line], scene_id=["a"] * 4)
    with pytest.raises(LabelError, match="feature 1 is no point or polygon"):
        objects(root, "p.gpkg")
    assert objects(root, "p.gpkg", drop_bad_labels=True) == [("a", 1, 2, "")]


def test_files_of_images_may_be_empty_and_their_names_end_in_capitals(root: Path):
    save(root / "each/a.gpkg", [at(1, 2)], kind=["car"])
    (root / "each/a.gpkg").rename(root / "each/a.GPKG")
    (root / "each/v.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    assert objects(root, "each", classes=["car", "tree"], column="kind") == [("a", 1, 2, "car")]


def test_a_layer_may_be_a_table_of_pixels(root: Path):
    columns = {"scene_id": np.array(["a", "v"], object), "row": np.array([1, 3]), "column": np.array([2, 4])}
    pyogrio.raw.write(
        str(root / "p.gpkg"), None, list(columns.values()), list(columns), geometry_type=None, driver="GPKG"
    )
    assert objects(root, "p.gpkg") == [("a", 1, 2, ""), ("v", 3, 4, "")]


def test_of_a_hollow_polygon_its_centre_counts(root: Path):
    bay = shapely.box(2, 3, 9, 6)  # columns and rows
    shore = shapely.box(0, 0, 9, 9).difference(bay)
    polygon = shapely.affinity.affine_transform(shore, GRID.to_shapely())
    save(root / "p.gpkg", [polygon], scene_id=["a"])
    ((name, row, col, _),) = objects(root, "p.gpkg")
    want = shapely.centroid(shore)
    assert bay.contains(want)
    assert (name, row, col) == ("a", pytest.approx(want.y - 0.5), pytest.approx(want.x - 0.5))


def test_attributes_that_are_lists_do_no_harm(root: Path):
    place = {"type": "Point", "coordinates": list(at(1, 2).coords[0])}
    feature = {"type": "Feature", "properties": {"scene_id": "a", "tags": ["x", "y"]}, "geometry": place}
    crs = {"type": "name", "properties": {"name": UTM}}
    (root / "p.geojson").write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))
    assert objects(root, "p.geojson") == [("a", 1, 2, "")]


@pytest.mark.parametrize(
    "text",
    [
        "scene_id, row, column\na, 1.5, 2.5\n",
        "image_path,xmin,ymin,xmax,ymax\nC:\\images\\a.tif,1,1,5,3\n",
        "image_path,xmin,ymin,xmax,ymax\nimages/a.tif,1,1,5,3\n",
    ],
)
def test_tables_of_other_programs_are_read(root: Path, text: str):
    (root / "p.csv").write_text(text)
    assert objects(root, "p.csv") == [("a", 1.5, 2.5, "")]


def test_an_image_without_a_name_is_said(root: Path):
    (root / "p.csv").write_text("image_path,xmin,ymin,xmax,ymax\na.tif,1,1,5,3\n,1,1,5,3\n")
    with pytest.raises(LabelError, match="line 3: image_path is empty"):
        objects(root, "p.csv")


@pytest.mark.parametrize("name", ["", " car"])
def test_a_class_that_no_table_can_hold_is_refused(root: Path, name: str):
    with pytest.raises(ConfigError, match=f"classes holds '{name}'; give a name without spaces around it"):
        objects(root, "p.csv", classes=["tree", name])


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("row,column,scene_id\n1,2,a\n1,2,A\n3,4,B\n", "2 of its 3 objects .*; its scene_id 'A' is the name of none"),
        ("x,y\n500105,5999895\n9,54\n", "1 of its 2 objects .*; check x and y: the first is 9, 54, a is in EPSG:32632"),
    ],
)
def test_objects_of_no_image_are_told(root: Path, table: str, told: str):
    (root / "p.csv").write_text(table)
    with pytest.warns(XTWarning, match=told):
        assert {each[1:3] for each in objects(root, "p.csv")} <= {(1, 2), (10, 10)}


def test_objects_of_images_that_were_not_asked_for_are_no_fault(root: Path):
    """As where one image of many is scored."""
    (root / "p.csv").write_text("row,column,scene_id\n1,2,a\n3,4,v\n")
    source = Source(root / "images/a.tif", InputSpec(("p",), (0.0,), (1.0,)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_points(root / "p.csv", {"a": source}).row.tolist() == [1]


def test_metres_without_a_crs_are_no_degrees(root: Path):
    metres = [500_105, 5_999_895]

    def save_json(*places: list[float]) -> None:
        shapes = [{"type": "Point", "coordinates": each} for each in places]
        features = [{"type": "Feature", "properties": {}, "geometry": each} for each in shapes]
        (root / "p.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))

    save_json(metres, metres, metres)
    with pytest.raises(
        LabelError, match=r"none of its 3 .*: the first is 500105, 5999895 in EPSG:4326, a is in EPSG:326"
    ):
        objects(root, "p.geojson")
    save_json(metres, [9.001, 54.145], metres)
    with pytest.warns(XTWarning, match="2 of its 3 objects lie in no image"):
        [(_, row, col, _)] = [each for each in objects(root, "p.geojson") if each[0] == "a"]
    x, y = rasterio.warp.transform("EPSG:4326", UTM, [9.001], [54.145])
    assert (col + 0.5, row + 0.5) == pytest.approx(~GRID * (x[0], y[0]), abs=1e-6)
