"""Polygons as what is true of a map, and areas, beside rasters of the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from map_files import NAMES, layer, save, score

from xt.analysis import map_truth
from xt.cli.main import main
from xt.data.geotiff import open_raster
from xt.geometry.grid import Window

HEIGHT, WIDTH = 70, 1100  # more than one window
BOXES = {"ship": (3.2, 4.9, 30.7, 60.1), "ice": (20.4, 9.6, 1090.2, 30.3), "fog": (900.1, 2.2, 950.8, 90.0)}
AREA = shapely.Polygon([(10.3, 0.2), (1080, 5.7), (1000.6, 66), (15, 50)])


def inside(shape: Any) -> np.ndarray:
    cols, rows = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    return np.asarray(shapely.contains_xy(shape, cols, rows))


def a_map() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3, (HEIGHT, WIDTH)).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson"])
def test_polygons_score_as_the_raster_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str):
    shapes = {name: shapely.box(*box) for name, box in BOXES.items()}
    known = inside(AREA) & ~inside(shapes["fog"])
    true = np.where(inside(shapes["ice"]), 2, inside(shapes["ship"]))  # the later class where both are
    raster = save(tmp_path / "true.tif", np.where(known, true, 255).astype(np.uint8), nodata=255)
    found = save(tmp_path / "found.tif", a_map(), NAMES)
    drawn = layer(tmp_path / f"true{suffix}", list(shapes.values())[::-1], kind=list(shapes)[::-1])
    areas = layer(tmp_path / f"areas{suffix}", [AREA])
    argv = ["--column", "kind", "--unclear", "fog", "--areas", areas]
    assert score(capsys, found, drawn, *argv) == score(capsys, found, raster)
    without, _ = score(capsys, found, drawn, *argv[:4])
    assert without["pixels"] == (~inside(shapes["fog"])).sum()
    ignored, _ = score(capsys, found, drawn, *argv, "--ignore", 2)
    assert ignored["pixels"] == (known & (true != 2)).sum()
    assert "iou_ice" in ignored  # the map says it where another class is true


def test_areas_bound_rasters_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    found, areas = save(tmp_path / "found.tif", a_map(), NAMES), layer(tmp_path / "areas.gpkg", [AREA])
    true = a_map()[::-1]
    cut = save(tmp_path / "cut.tif", np.where(inside(AREA), true, 255).astype(np.uint8), nodata=255)
    whole = save(tmp_path / "whole.tif", true)
    assert score(capsys, found, whole, "--areas", areas) == score(capsys, found, cut)
    numbers = save(tmp_path / "numbers.tif", np.stack([a_map(), true]).astype(np.float32))
    values = np.stack([true, a_map()]).astype(np.float32)
    known = save(tmp_path / "known.tif", values)
    bounded = save(tmp_path / "bounded.tif", np.where(inside(AREA), values, np.nan).astype(np.float32), nodata=np.nan)
    assert score(capsys, numbers, known, "--areas", areas) == score(capsys, numbers, bounded)


@pytest.mark.parametrize("named", [True, False])
def test_polygons_of_a_map_give_it_full_marks(tmp_path: Path, capsys: pytest.CaptureFixture[str], named: bool):
    pixels = np.kron(np.random.default_rng(1).integers(0, 3, (7, 11)), np.ones((5, 5))).astype(np.uint8)
    path, drawn = save(tmp_path / "map.tif", pixels, NAMES if named else None), tmp_path / "map.gpkg"
    assert main(["vectorize", str(path), "-o", str(drawn)]) == 0
    capsys.readouterr()
    scores, _ = score(capsys, path, drawn)
    assert set(scores.values()) == {1.0, pixels.size, 0}


def test_of_two_classes_polygons_need_no_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pixels = np.zeros((20, 30), np.uint8)
    pixels[3:9, 4:25] = 1
    found = save(tmp_path / "found.tif", pixels, NAMES[:2])
    drawn = layer(tmp_path / "true.gpkg", [shapely.box(4, 3, 25, 9)], kind=["house"])
    assert score(capsys, found, drawn)[0]["iou"] == 1
    told = layer(tmp_path / "told.gpkg", [shapely.box(4, 3, 25, 9), shapely.box(0, 0, 3, 3)], **{"class": [1, 0]})
    assert score(capsys, found, told)[0]["iou"] == 1
    three = save(tmp_path / "three.tif", pixels, NAMES)
    assert "no column 'class'; set --column to one of: kind" in score(capsys, three, drawn, code=3)[1]


def test_what_cannot_be_scored_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    found = save(tmp_path / "found.tif", a_map(), NAMES)
    drawn = layer(tmp_path / "true.gpkg", [shapely.box(4, 3, 25, 9)], kind=["cloud"])
    raster, numbers = save(tmp_path / "true.tif", a_map()), save(tmp_path / "numbers.tif", a_map().astype(np.float32))
    far = layer(tmp_path / "far.gpkg", [shapely.box(-900, 3, -800, 9)])
    for argv, code, message in (
        (
            (found, drawn, "--column", "kind"),
            3,
            "has kind 'cloud', which is no class (sea, ship, ice); mend it, or name",
        ),
        ((found, drawn, "--column", "kind"), 3, "it in --unclear"),
        ((found, tmp_path / "none.gpkg"), 3, "none.gpkg: no such file"),
        ((found, raster, "--areas", tmp_path / "none.gpkg"), 3, "none.gpkg: no such file; check its name"),
        ((found, raster, "--areas", far), 3, "nothing is known of the pixels"),
        ((found, drawn, "--colors", "1,2,3"), 2, "--colors is of rasters, not"),
        ((found, raster, "--column", "kind"), 2, "--column is of polygons, not"),
        ((found, raster, "--unclear", "fog"), 2, "--unclear is of polygons, not"),
        ((numbers, numbers, "--unclear", "fog"), 2, "--unclear is of classes"),
        ((numbers, drawn), 3, "has numbers; give a raster of numbers on its grid"),
        ((save(tmp_path / "flat.tif", a_map(), NAMES, crs=None), drawn, "--column=kind"), 3, "no CRS or georeference"),
    ):
        assert message in score(capsys, *argv, code=code)[1]


def test_thumbnails_show_what_is_known(tmp_path: Path):
    """One pixel stands for four."""
    true = np.zeros((6, 8), np.uint8)
    true[2:4, 4:8], true[:2, :2] = 2, 1
    found = save(tmp_path / "found.tif", true, NAMES)
    shapes = [shapely.box(4, 2, 8, 4), shapely.box(0, 0, 2, 2), shapely.box(0, 4, 2, 6)]
    drawn = layer(tmp_path / "true.gpkg", shapes, kind=["ice", "ship", "fog"])
    areas = layer(tmp_path / "areas.gpkg", [shapely.box(0, 0, 6, 6)])
    colors = np.zeros((3, 6, 8), np.uint8)
    colors[:, true == 1], colors[:, true == 2] = [[9], [8], [7]], [[1], [2], [3]]
    for truth, options in (
        (drawn, {"column": "kind", "unclear": ["fog"]}),
        (save(tmp_path / "true.tif", np.where(np.arange(6)[:, None] < 4, true, 9).astype(np.uint8)), {"ignore": 9}),
        (save(tmp_path / "colors.tif", colors), {"colors": [(9, 8, 7), (1, 2, 3)]}),
    ):
        with open_raster(found, purpose="label") as dataset:
            told = map_truth.ClassTruth(found, dataset, truth, map_truth.TruthOptions(areas=areas, **options))
            pixels = told.thumbnail((3, 4)).filled(7)
            whole, known = told.read(Window(2, 3, 2, 4))
        last = [7, 0, 0, 7] if truth == drawn else [0, 0, 0, 7] if "colors" in options else [7] * 4
        assert pixels.tolist() == [[1, 0, 0, 7], [0, 0, 2, 7], last]
        assert whole.tolist() == [[0, 2, 2, 2]] * 2
        assert known.tolist() == [[True, True, True, False]] * 2
