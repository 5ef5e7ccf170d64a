import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image

from xt.analysis import map_pictures, report
from xt.cli.main import main
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
    scene: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    figures = []
    monkeypatch.setattr(report, "save", lambda figure, out: figures.append(figure))
    from xt.data.labels import read_labels
    from xt.data.predictions import read_predictions

    found, truth = read_predictions(scene["points"]), read_labels(scene["labels"])
    report.plot_scenes({"s1": scene["scene"]}, found, truth, tmp_path / "a.png")
    axis = figures[0].axes[0]
    assert axis.get_title() == "1 of 3 objects found, 1 false alarms"
    drawn = [tuple(place) for each in axis.collections for place in np.asarray(each.get_offsets())]
    assert sorted(drawn) == sorted([(30, 20), (100, 60), (10, 80), (30, 21), (5, 5)])
    there_and_fishing = axis.collections[0]
    assert np.asarray(there_and_fishing.get_offsets()).tolist() == [[30, 20]]
    figures[0].canvas.draw()
    (legend,) = figures[0].legends
    assert len(legend.get_texts()) == 6
    assert 0 <= legend.get_window_extent().x0 < legend.get_window_extent().x1 <= figures[0].bbox.width


def test_an_object_is_found_within_the_tolerance_that_is_asked_for(
    tmp_path: Path, scene: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    figures = []
    monkeypatch.setattr(report, "save", lambda figure, out: figures.append(figure))
    argv = ["report", str(run_folder(tmp_path / "a", 1.0)), "-o", str(tmp_path / "out")]
    argv += [each for key, path in scene.items() for each in (f"--{key}", str(path))]
    for pixels, title in ((0.5, "0 of 3 objects found, 2 false"), (1.5, "1 of 3 objects found, 1 false")):
        assert main([*argv, "--tolerance", str(pixels)]) == 0
        assert figures[-1].axes[0].get_title() == f"{title} alarms"


def test_objects_without_a_class_are_drawn_beside_those_with_one(
    scene: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    figures = []
    monkeypatch.setattr(report, "save", lambda figure, out: figures.append(figure))
    found = LabelTable.build(1, row=[20], column=[30], scene_id=["s1"], label=["car"])
    truth = LabelTable.build(2, row=[20, 5], column=[30, 9], scene_id=["s1", "s1"])
    report.plot_scenes({"s1": scene["scene"]}, found, truth, tmp_path / "a.png")
    drawn = [tuple(place) for each in figures[0].axes[0].collections for place in np.asarray(each.get_offsets())]
    assert sorted(drawn) == [(9, 5), (30, 20), (30, 20)]
    assert [text.get_text() for text in figures[0].legends[0].get_texts()][0::2] == ["there: other", "there: car"]


def test_fishing_had_for_nothing(scene: dict[str, Path]):
    from xt.data.labels import read_labels

    assert report.for_nothing(read_labels(scene["labels"])) == {"fishing_fscore": pytest.approx(2 / 3)}


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
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    figures = []
    monkeypatch.setattr(report, "save", lambda figure, out: figures.append(figure))
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


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Figures as they were saved."""
    saved: list[Any] = []
    save = report.save
    monkeypatch.setattr(map_pictures, "save", lambda figure, out: (saved.append(figure), save(figure, out)))
    return saved


def raster(path: Path, pixels: np.ndarray, names: Sequence[str] = (), **options: Any) -> str:
    bands = pixels if pixels.ndim == 3 else pixels[None]
    size = dict(zip(("count", "height", "width"), bands.shape, strict=True))
    with rasterio.open(path, "w", driver="GTiff", dtype=pixels.dtype, **size, **options) as out:
        out.write(bands)
        out.update_tags(1, **{f"CLASS_{number}": name for number, name in enumerate(names)})
    return str(path)


def test_maps_beside_what_is_true(tmp_path: Path, figures: list[Any], capsys: pytest.CaptureFixture[str]):
    run = str(run_folder(tmp_path / "run", 5))
    true, said = np.tile(np.array([0, 1, 2, 1], np.uint8), (3, 1)), np.tile(np.array([0, 1, 1, 255], np.uint8), (3, 1))
    photo = raster(tmp_path / "photo.tif", np.arange(36, dtype=np.uint8).reshape(3, 3, 4))
    said_path = raster(tmp_path / "map.tif", said, ["sea", "ship", "cloud"], nodata=255)
    argv = ["report", run, "-o", str(tmp_path / "out"), "--scene", photo, "--maps", said_path, "--labels"]
    assert main([*argv, raster(tmp_path / "true.tif", true), "--ignore", "2"]) == 0
    assert str(tmp_path / "out/maps.png") in capsys.readouterr().out
    assert np.asarray(Image.open(tmp_path / "out/maps.png").convert("L")).std() > 10
    image, there, found = figures[-1].axes
    assert image.images[0].get_array().shape == (3, 4, 4)
    assert there.images[0].get_array().filled(9).tolist() == [[0, 1, 9, 1]] * 3
    assert found.images[0].get_array().filled(9).tolist() == [[0, 1, 1, 9]] * 3
    assert [text.get_text() for text in there.get_legend().get_texts()] == ["sea", "ship", "cloud"]
    assert there.images[0].get_clim() == found.images[0].get_clim() == (-0.5, 2.5)
    assert found.get_title() == "predicted: iou 1.000, f1 1.000"
    colors = np.where(true[None] == 1, np.array([0, 255, 0])[:, None, None], 3).astype(np.uint8)
    assert main([*argv, raster(tmp_path / "colours.tif", colors), "--colors", "0,255,0"]) == 0
    assert figures[-1].axes[1].images[0].get_array().tolist() == [[0, 1, 0, 1]] * 3
    assert figures[-1].axes[2].get_title().startswith("predicted: iou 0.500")


def test_maps_of_numbers_share_their_greys(tmp_path: Path, figures: list[Any]):
    true = np.linspace(5, 9, 12, dtype=np.float32).reshape(3, 4)
    paths = [raster(tmp_path / f"{name}.tif", true + more) for name, more in (("image", 0), ("map", 1), ("true", 0))]
    map_pictures.plot_maps([(Path(paths[0]), Path(paths[1]), Path(paths[2]))], tmp_path / "a.png")
    _, there, found, _ = figures[-1].axes
    assert there.images[0].get_clim() == found.images[0].get_clim() == pytest.approx((5.04, 8.96), abs=0.01)
    assert "rmse 1.000" in found.get_title()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--maps", "m.tif"], "belong together"),
        (["--scene", "a.tif", "--labels", "l.tif"], "belong together"),
        (["--scene", "a.tif", "b.tif", "--maps", "m.tif", "n.tif", "--labels", "l.tif"], "--labels has 1, --scene 2"),
        (["--scene", "a.tif", "--maps", "m.tif", "n.tif", "--labels", "l.tif"], "--maps has 2, --scene 1"),
        (["--scene", "a.tif", "--maps", "m.tif", "--points", "p.csv", "--labels", "l.tif"], "of different tasks"),
        (["--scene", "a.tif", "--points", "p.csv", "--labels", "l.csv", "k.csv"], "--labels has 2 tables"),
        (["--ignore", "0"], "--ignore is of --maps"),
        (["--colors", "1,2,3"], "--colors is of --maps"),
    ],
)
def test_options_that_do_not_fit_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
):
    assert main(["report", str(run_folder(tmp_path / "run", 5)), "-o", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
