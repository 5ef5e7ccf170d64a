import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from PIL import Image
from rasterio.transform import Affine

from xt.analysis import report, scene_pictures
from xt.cli.main import main
from xt.cli.report import _raster
from xt.data.labels import LabelTable
from xt.data.predictions import write_predictions
from xt.data.synthetic.scenes import COLUMNS


def run_folder(path: Path, loss: float) -> Path:
    path.mkdir(parents=True)
    rows = [f"{step},train/loss,{loss / (step + 1)}" for step in range(60)]
    rows += ["29,val/aggregate,0.25", "59,val/aggregate,0.5"]
    (path / "metrics.csv").write_text("\n".join(["step,name,value", *rows]) + "\n")
    (path / "test.json").write_text(json.dumps({"test/aggregate": 0.5, "test/fishing_fscore": loss / 10}))
    return path


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What would be saved."""
    found: list[Any] = []
    for module in (report, scene_pictures):
        monkeypatch.setattr(module, "save", lambda figure, out: found.append(figure))
    yield found
    report.plt.close("all")


@pytest.fixture
def scene(tmp_path: Path) -> dict[str, Path]:
    raster, labels, points = tmp_path / "s1.tif", tmp_path / "labels.csv", tmp_path / "s1.csv"
    with rasterio.open(raster, "w", driver="GTiff", count=1, height=90, width=120, dtype="float32", nodata=-9) as out:
        out.write(np.random.default_rng(0).normal(-15, 2, (1, 90, 120)).astype(np.float32))
    objects = [("20", "30", "True", "True"), ("60", "100", "True", "False"), ("80", "10", "False", "")]
    lines = [
        ",".join(
            {"detect_scene_row": row, "detect_scene_column": col, "is_vessel": vessel, "is_fishing": fishing,
             "scene_id": "s1", "confidence": "HIGH", "detect_lat": "0", "detect_lon": "0",
             "distance_from_shore_km": "9", "detect_id": f"s1_{row}"}.get(column, "") for column in COLUMNS
        ) for row, col, vessel, fishing in objects
    ]  # fmt: skip
    labels.write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    found = LabelTable.build(
        2, row=np.array([21.0, 5]), column=np.array([30.0, 5]), scene_id=np.full(2, "s1"), is_vessel=np.ones(2),
        is_fishing=np.array([1.0, 0]), vessel_length_m=np.full(2, 50.0), score=np.full(2, 200.0),
    )  # fmt: skip
    write_predictions(points, found)
    return {"scene": raster, "points": points, "labels": labels}


def test_pictures_and_the_table(tmp_path: Path, scene: dict[str, Path], capsys: pytest.CaptureFixture[str]):
    runs = [str(run_folder(tmp_path / name, loss)) for name, loss in (("with", 8.0), ("without", 5.0))]
    options = [each for key, path in scene.items() for each in (f"--{key}", str(path))]
    assert main(["report", *runs, "-o", str(tmp_path / "out"), *options]) == 0
    assert "fishing_fscore        with 0.800  without 0.500" in capsys.readouterr().out
    pictures = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in pictures] == ["losses.png", "scenes.png", "scores.png"]
    for path in pictures:
        pixels = np.asarray(Image.open(path).convert("L"))
        assert pixels.std() > 10


def test_scene_picture_shows_what_is_there_and_what_was_found(
    scene: dict[str, Path], tmp_path: Path, figures: list[Any]
):
    from xt.data.labels import read_labels
    from xt.data.predictions import read_predictions

    found, truth = read_predictions(scene["points"]), read_labels(scene["labels"])
    scene_pictures.plot_scenes({"s1": scene["scene"]}, found, truth, tmp_path / "a.png")
    axis = figures[0].axes[0]
    assert axis.get_title() == "s1\n1 of 3 objects found, 1 false alarms"
    drawn = [tuple(place) for each in axis.collections for place in np.asarray(each.get_offsets())]
    assert sorted(drawn) == sorted([(30, 20), (100, 60), (10, 80), (30, 21), (5, 5)])
    there_and_fishing = axis.collections[0]
    assert np.asarray(there_and_fishing.get_offsets()).tolist() == [[30, 20]]
    figures[0].canvas.draw()
    (legend,) = figures[0].legends
    assert len(legend.get_texts()) == 6
    assert 0 <= legend.get_window_extent().x0 < legend.get_window_extent().x1 <= figures[0].bbox.width


def test_an_object_is_found_within_the_tolerance_that_is_asked_for(
    tmp_path: Path, scene: dict[str, Path], figures: list[Any]
):
    argv = ["report", str(run_folder(tmp_path / "a", 1.0)), "-o", str(tmp_path / "out")]
    argv += [each for key, path in scene.items() for each in (f"--{key}", str(path))]
    for pixels, title in ((0.5, "0 of 3 objects found, 2 false"), (1.5, "1 of 3 objects found, 1 false")):
        assert main([*argv, "--tolerance", str(pixels)]) == 0
        assert figures[-1].axes[0].get_title() == f"s1\n{title} alarms"


def test_marks_stand_on_a_scene_that_is_drawn_smaller(
    tmp_path: Path, scene: dict[str, Path], figures: list[Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(report, "SHOWN_PIXELS", 60)
    folder, more = tmp_path / "s1", tmp_path / "more.csv"
    folder.mkdir()
    scene["scene"].rename(folder / "VH_dB.tif")
    write_predictions(more, LabelTable.build(1, row=[70], column=[50], scene_id=["s1"]))
    argv = ["report", str(run_folder(tmp_path / "a", 1.0)), "-o", str(tmp_path / "out"), "--scene", str(folder)]
    argv += ["--labels", str(scene["labels"]), "--points", str(scene["points"]), str(more)]
    assert main(argv) == 0
    axis = figures[2].axes[0]
    assert axis.images[0].get_array().shape == (45, 60)
    drawn = [tuple(place) for each in axis.collections for place in np.asarray(each.get_offsets())]
    assert sorted(drawn) == sorted([(15, 10), (50, 30), (5, 40), (15, 10.5), (2.5, 2.5), (25, 35)])
    assert axis.get_title() == "s1\n1 of 3 objects found, 2 false alarms"
    (folder / "VV_dB.tif").touch()
    assert _raster(folder) == ("s1", folder / "VV_dB.tif")
    for band in folder.iterdir():
        band.unlink()
    assert main(argv) != 0


def test_labels_on_the_map_are_placed_by_the_scene_that_is_drawn(tmp_path: Path, figures: list[Any]):
    grid = Affine(10, 0, 500_000, 0, -10, 6_000_000)
    profile = {"driver": "GTiff", "count": 1, "height": 90, "width": 120, "dtype": "uint8"}
    with rasterio.open(tmp_path / "s1.tif", "w", **profile, crs="EPSG:32632", transform=grid) as out:
        out.write(np.ones((1, 90, 120), np.uint8))
    points = shapely.to_wkb(shapely.points([grid * (30.5, 20.5), grid * (100.5, 60.5)]))
    sorts = [np.array(["car", "tree"], object)]
    pyogrio.raw.write(
        str(tmp_path / "p.gpkg"), points, sorts, ["sort"], geometry_type="Point", crs="EPSG:32632", driver="GPKG"
    )
    found = LabelTable.build(1, row=[20], column=[30], scene_id=["s1"], label=["car"])
    write_predictions(tmp_path / "s1.csv", found, of_classes=True)
    argv = ["report", str(run_folder(tmp_path / "a", 1.0)), "-o", str(tmp_path / "out"), "--column", "sort"]
    argv += ["--scene", str(tmp_path / "s1.tif"), "--points", str(tmp_path / "s1.csv")]
    assert main([*argv, "--labels", str(tmp_path / "p.gpkg")]) == 0
    drawn = [tuple(place) for each in figures[2].axes[0].collections for place in np.asarray(each.get_offsets())]
    assert sorted(drawn) == [(30, 20), (30, 20), (100, 60)]
    kinds = [text.get_text() for text in figures[2].legends[0].get_texts()]
    assert kinds[0::2] == ["there: car", "there: tree"]


def test_objects_without_a_class_are_drawn_beside_those_with_one(
    scene: dict[str, Path], tmp_path: Path, figures: list[Any]
):
    found = LabelTable.build(1, row=[20], column=[30], scene_id=["s1"], label=["car"])
    truth = LabelTable.build(2, row=[20, 5], column=[30, 9], scene_id=["s1", "s1"])
    scene_pictures.plot_scenes({"s1": scene["scene"]}, found, truth, tmp_path / "a.png")
    drawn = [tuple(place) for each in figures[0].axes[0].collections for place in np.asarray(each.get_offsets())]
    assert sorted(drawn) == [(9, 5), (30, 20), (30, 20)]
    assert [text.get_text() for text in figures[0].legends[0].get_texts()][0::2] == ["there: other", "there: car"]


def test_fishing_had_for_nothing(scene: dict[str, Path]):
    from xt.data.labels import read_labels

    labels = read_labels(scene["labels"])
    assert report.for_nothing(labels) == {"fishing_fscore": pytest.approx(2 / 3)}
    unsure = replace(labels, confidence=np.array(["LOW", "HIGH", "HIGH"]))
    assert report.for_nothing(unsure) == {"fishing_fscore": 0}


def test_scores_of_the_split_stand_side_by_side_over_what_is_had_for_nothing(
    tmp_path: Path, scene: dict[str, Path], capsys: pytest.CaptureFixture[str], figures: list[Any]
):
    with scene["labels"].open("a") as file:  # of a scene that is not drawn
        line = scene["labels"].read_text().splitlines()[2]
        file.write(line.replace("s1", "s2") + "\n")
    runs = [run_folder(tmp_path / name, 1.0) for name in ("a", "b")]
    for run, value in zip(runs, (0.25, 0.75), strict=True):
        (run / "validation.json").write_text(json.dumps({"val/fishing_fscore": value}))
    options = [each for key, path in scene.items() for each in (f"--{key}", str(path))]
    argv = ["report", *map(str, runs), "-o", str(tmp_path / "out"), *options]
    assert main([*argv, "--split", "validation"]) == 0
    assert "fishing_fscore     a 0.250  b 0.750\n" in capsys.readouterr().out
    axis = figures[1].axes[0]
    first, second = axis.patches
    assert (first.get_height(), second.get_height()) == (0.25, 0.75)
    assert first.get_x() + first.get_width() == pytest.approx(second.get_x()) == pytest.approx(axis.get_xticks()[0])
    (line,) = axis.collections
    ((_, height), _) = line.get_segments()[0]
    assert height == pytest.approx(2 * (1 / 3) / (1 + 1 / 3))  # one of three vessels fishes


def test_curves_are_means_over_steps(tmp_path: Path):
    series = report.read_metrics(run_folder(tmp_path / "a", 1.0))
    assert series["val/aggregate"][0].tolist() == [29, 59]
    assert series["train/loss"][1][:2].tolist() == [1.0, 0.5]
    steps, values = report._smooth(*series["train/loss"])
    assert steps[0] == 2
    assert values[0] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


@pytest.mark.parametrize(
    ("missing", "message"),
    [("metrics.csv", "no metrics.csv"), ("test.json", "run xt eval .* --split test first")],
)
def test_a_run_without_results_says_what_to_do(
    tmp_path: Path, missing: str, message: str, capsys: pytest.CaptureFixture[str]
):
    run = run_folder(tmp_path / "a", 1.0)
    (run / missing).unlink()
    assert main(["report", str(run), "-o", str(tmp_path / "out")]) == 3
    assert re.search(message, capsys.readouterr().err)


def test_scene_without_points_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = run_folder(tmp_path / "a", 1.0)
    assert main(["report", str(run), "-o", str(tmp_path / "out"), "--scene", "x.tif"]) == 2
    assert "give all three" in capsys.readouterr().err
    assert main(["report", str(run), "-o", str(tmp_path / "out"), "--tolerance", "0"]) == 2
    assert "--tolerance 0: it must be above 0 pixels" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_runs_of_two_tasks_and_of_one_name_stand_beside_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], figures: list[Any]
):
    heights, ships, mine, others = (
        run_folder(tmp_path / name, 1.0) for name in ("heights", "ships", "mine/a", "others/a")
    )
    (heights / "test.json").write_text(json.dumps({"test/r2": -0.5, "test/rmse": 12.0}))
    (others / "test.json").write_text(json.dumps({"test/aggregate": 0.25, "test/fishing_fscore": 0.25}))
    runs = [str(run) for run in (ships, heights, mine, others)]
    assert main(["report", *runs, "-o", str(tmp_path / "out")]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert re.search("heights 12.000", lines["rmse"])
    assert re.search(r"ships 0.500 .*mine/a 0.500 .*others/a 0.250", lines["aggregate"])
    axis = figures[1].axes[0]
    tops = [bar.get_height() for bar in axis.patches if not np.isnan(bar.get_height())]
    assert sorted(tops) == pytest.approx([-0.5, 0.1, 0.1, 0.25, 12])
    low, high = axis.get_ylim()
    assert low < -0.5
    assert high > 12
