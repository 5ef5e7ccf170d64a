"""F1 of objects of classes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.transform import Affine

from xt.cli.main import main
from xt.data.labels import LabelTable
from xt.data.predictions import write_predictions
from xt.metrics.objects import class_scores

CLASSES = ("car", "tree", "plane")


def table(rows: list[tuple[str, float, float, str]], confidence: str = "HIGH") -> LabelTable:
    scene, row, column, label = zip(*rows, strict=True)
    return LabelTable.build(
        len(rows), scene_id=scene, row=row, column=column, label=label, confidence=[confidence] * len(rows)
    )


TRUTH = table([("a", 10, 10, "car"), ("a", 50, 50, "tree"), ("a", 90, 10, "tree"), ("b", 10, 10, "car")])
FOUND = table([("a", 12, 10, "car"), ("a", 52, 50, "car"), ("a", 10, 60, "tree"), ("a", 90, 10, "tree")], "")


def test_places_and_classes_are_scored_apart():
    got = class_scores(FOUND, TRUTH, CLASSES, tolerance=5)
    assert got == {
        "f1": pytest.approx((0.5 + 0.5) / 2),
        "loc_f1": pytest.approx(2 * 3 / (4 + 4)),
        "f1_car": pytest.approx(2 * 1 / (2 + 2)),
        "f1_tree": pytest.approx(2 * 1 / (2 + 2)),
    }
    assert class_scores(FOUND, TRUTH, CLASSES, tolerance=1)["f1_car"] == 0
    other = replace(FOUND, label=np.array(["car", "car", "tree", "plane"]))
    got = class_scores(other, TRUTH, CLASSES, tolerance=5)
    assert (got["f1"], got["f1_plane"]) == (pytest.approx(0.5 / 3), 0)
    assert class_scores(FOUND, TRUTH.select(np.zeros(4, bool)), CLASSES)["f1"] == 0
    assert class_scores(LabelTable.build(0), LabelTable.build(0), CLASSES) == {"f1": 0, "loc_f1": 0}


def test_what_nobody_is_sure_of_counts_neither_way():
    unsure = replace(TRUTH, confidence=np.array(["LOW", "HIGH", "HIGH", "HIGH"]))
    got = class_scores(FOUND, unsure, CLASSES, tolerance=5)
    assert got["loc_f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert got["f1_car"] == 0
    # Two pixels from the unsure one is elsewhere, and a false alarm.
    assert class_scores(FOUND, unsure, CLASSES, tolerance=1)["loc_f1"] == pytest.approx(2 * 1 / (4 + 3))


def test_tables_of_classes_are_scored_by_xt_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_predictions(tmp_path / "found.csv", FOUND, of_classes=True)
    assert (tmp_path / "found.csv").read_text().splitlines()[:2] == [
        "detect_scene_row,detect_scene_column,scene_id,class,score",
        "12.0,10.0,a,car,",
    ]
    rows = zip(TRUTH.scene_id, TRUTH.row, TRUTH.column, TRUTH.label, strict=True)
    lines = ["scene_id,row,column,class", *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "there.csv").write_text("\n".join(lines) + "\n")
    argv = ["score", str(tmp_path / "found.csv"), str(tmp_path / "there.csv"), "--tolerance", "5"]
    for tolerance in (1, 5):
        assert main([*argv[:-1], str(tolerance), "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == class_scores(FOUND, TRUTH, CLASSES, tolerance)
    assert main([*argv, "--scene", "a"]) == 0
    assert "f1_car             0.6667\n" in capsys.readouterr().out
    assert main([*argv, "--scene", "b", "--json"]) == 0
    alone = [each.select(each.scene_id == "b") for each in (FOUND, TRUTH)]
    assert json.loads(capsys.readouterr().out) == class_scores(*alone, CLASSES, 5)
    assert main([*argv, "--scene", "c"]) != 0
    assert f"--scene c: not in {tmp_path / 'there.csv'}; known: a, b" in capsys.readouterr().err
    for option in (["--official"], ["--shoreline", str(tmp_path)]):
        assert main([*argv[:3], *option]) == 2
        assert f"{option[0]} is of xView3" in capsys.readouterr().err


def test_labels_on_the_map_are_placed_by_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    grid = Affine(2, 0, 500_000, 0, -2, 6_000_000)
    for name, east in (("a", 0), ("b", 1000)):
        place = {"crs": "EPSG:32632", "transform": Affine.translation(east, 0) * grid}
        with rasterio.open(
            tmp_path / f"{name}.tif", "w", driver="GTiff", count=2, height=100, width=100, dtype="uint8", **place
        ) as out:
            out.write(np.ones((2, 100, 100), np.uint8))
    places = [(1000 * (scene == "b") + 500_001 + 2 * col, 5_999_999 - 2 * row)
              for scene, row, col in zip(TRUTH.scene_id, TRUTH.row, TRUTH.column, strict=True)]  # fmt: skip
    points, sorts = shapely.to_wkb(shapely.points(places)), [TRUTH.label.astype(object)]
    pyogrio.raw.write(
        str(tmp_path / "p.gpkg"), points, sorts, ["sort"], geometry_type="Point", crs="EPSG:32632", driver="GPKG"
    )
    found = LabelTable.concatenate([FOUND, table([("b", 10, 11, "car"), ("b", 70, 70, "car")])])
    write_predictions(tmp_path / "found.csv", found, of_classes=True)
    argv = ["score", str(tmp_path / "found.csv"), str(tmp_path / "p.gpkg"), "--column", "sort", "--json"]
    for names in ("ab", "a", "b"):
        images = [str(tmp_path / f"{name}.tif") for name in names]
        assert main([*argv, "--tolerance", "5", "--images", *images]) == 0
        mine = [each.select(np.isin(each.scene_id, list(names))) for each in (found, TRUTH)]
        assert json.loads(capsys.readouterr().out) == pytest.approx(class_scores(*mine, CLASSES, 5))
    assert main(argv) == 2
    assert "p.gpkg: give --images, the images on which these points lie" in capsys.readouterr().err
    for header in ("scene_id,xmin,ymin,xmax,ymax", "x,y", "image_path,xmin,ymin,xmax,ymax"):
        (tmp_path / "p.csv").write_text(f"{header},sort\n")
        assert main([*argv[:2], str(tmp_path / "p.csv"), "--column", "sort"]) == 2
        assert "p.csv: give --images, the images on which these points lie" in capsys.readouterr().err


def test_scores_without_classes_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = list(zip(TRUTH.scene_id, TRUTH.row, TRUTH.column, TRUTH.label, strict=True))
    for name in ("class", "kind"):
        lines = [f"scene_id,row,column,{name}", *(",".join(map(str, row)) for row in rows)]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    write_predictions(tmp_path / "found.csv", FOUND, of_classes=True)
    assert main(["score", str(tmp_path / "found.csv"), str(tmp_path / "kind.csv")]) == 0
    assert f"{len(rows)} of {len(rows)} labels have no class and count for loc_f1 alone" in capsys.readouterr().err
    kinds = (tmp_path / "kind.csv").read_text()
    (tmp_path / "kind.csv").write_text(f"{kinds}b,5,5,\n")
    assert main(["score", str(tmp_path / "found.csv"), str(tmp_path / "kind.csv"), "--column", "kind"]) == 0
    assert f"1 of {len(rows) + 1} labels have no kind and count for loc_f1 alone\n" in capsys.readouterr().err
    write_predictions(tmp_path / "plain.csv", FOUND)
    assert main(["score", str(tmp_path / "plain.csv"), str(tmp_path / "class.csv")]) == 0
    assert "aggregate" in capsys.readouterr().out
