"""No output destroys what is the user's."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from small_inputs import noise, raster, save

from xt import files
from xt.cli.main import main
from xt.errors import OutputError
from xt.files import locked
from xt.inference import predict as predict_module
from xt.inference import tiles
from xt.models import checkpoint
from xt.tasks.classification import ImageClassification


def contents(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """Run ``xt predict`` and return the one line that refuses it."""
    assert main(["predict", *map(str, argv)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("xt: error: ")
    assert error.count("\n") == 1
    return error


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model must not load."""

    def fail(path: Path) -> None:
        pytest.fail("the model was loaded")

    monkeypatch.setattr(checkpoint, "load_model", fail)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with images and a model that takes one band."""
    monkeypatch.chdir(tmp_path)
    raster(tmp_path / "a.tif", noise(1, 40, 50))
    (tmp_path / "b").mkdir()
    raster(tmp_path / "b" / "c.tif", noise(1, 40, 50))
    raster(tmp_path / "data.gpkg", noise(1, 40, 50))
    (tmp_path / "scene").mkdir()
    raster(tmp_path / "scene" / "b0.tif", noise(1, 40, 50))
    (tmp_path / "link.tif").symlink_to("a.tif")
    (tmp_path / "linked").symlink_to("b")
    os.link(tmp_path / "a.tif", tmp_path / "hard.tif")
    for run, task in RUNS.items():
        save(tmp_path / run / "model", task, 1)
    return tmp_path


RUNS = {"run": "semantic-segmentation", "detect": "point-detection", "classify": "classification"}


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]], ids=["", "overwrite"])
@pytest.mark.parametrize(
    ("images", "output"),
    [
        ("a.tif", "a.tif"), ("a.tif", "./a.tif"), ("a.tif", "b/../a.tif"), ("a.tif", "link.tif"), ("link.tif", "a.tif"),
        ("a.tif", "hard.tif"), ("hard.tif", "a.tif"), ("b/c.tif", "linked/c.tif"), ("b/c.tif", "b"), ("a.tif", "."),
        ("data.gpkg", "data.tif"), ("scene", "scene/b0.tif"), ("a.tif b/c.tif", "b"), ("a.tif b/c.tif", "linked"),
        ("a.tif scene", "."), ("a.tif", "classify/model/config.tif"),
    ],
)  # fmt: skip
def test_output_that_is_an_input_is_refused(
    place: Path, images: str, output: str, overwrite: list[str], capsys: pytest.CaptureFixture[str]
):
    before = contents(place)
    run = {"data.gpkg": "detect", "a.tif": "classify" if "config" in output else "run"}.get(images, "run")
    for model in (run, f"{run}/model"):
        argv = [*images.split(), "-m", model, "-o", output, *overwrite]
        assert "would replace the input" in refused(capsys, *argv)
    assert contents(place) == before


def test_library_refuses_it_too(place: Path):
    model, metadata = checkpoint.load_model(place / "run")
    options = predict_module.PredictOptions(overwrite=True)
    with pytest.raises(OutputError, match="would replace the input"):
        predict_module.predict_image(model, metadata, place / "a.tif", place / "link.tif", options)


@pytest.mark.parametrize("reason", ["exists; --overwrite", "needs up to 0 MiB"])
def test_library_finds_faults_before_the_work(place: Path, reason: str, monkeypatch: pytest.MonkeyPatch):
    if "exists" in reason:
        (place / "o.tif").write_text("mine")
    else:
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 10, 0))
    monkeypatch.setattr(tiles, "run_model", lambda *args: pytest.fail("the work has begun"))
    model, metadata = checkpoint.load_model(place / "run")
    with pytest.raises(OutputError, match=reason):
        predict_module.predict_image(model, metadata, place / "a.tif", place / "o.tif", predict_module.PredictOptions())


TASKS = [("point-detection", ".csv"), ("point-detection", ".gpkg"), ("classification", ".json"),
         ("semantic-segmentation", ".tif")]  # fmt: skip


@pytest.mark.parametrize(("task", "suffix"), TASKS)
def test_what_stands_beside_the_output_is_not_replaced_unasked(
    tmp_path: Path, task: str, suffix: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    image, model = raster(tmp_path / "a.tif", noise(1, 40, 50)), save(tmp_path / "model", task, 1)
    old = tmp_path / f"o{suffix}"
    old.write_text("mine")
    argv = [image, "-m", model, "-o", tmp_path / "o.tif"]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "load_model", lambda path: pytest.fail("the model was loaded"))
        assert f"{old} exists; --overwrite replaces it" in refused(capsys, *argv)
    assert [p.name for p in tmp_path.glob("o.*")] == [old.name]
    assert main(["predict", *map(str, argv), "--overwrite"]) == 0
    assert old.read_bytes() != b"mine"


@pytest.mark.parametrize("task", ["point-detection", "classification"])
@pytest.mark.parametrize("stage", ["pixels", "changed", "siblings", "publication"])
def test_failure_at_any_stage_leaves_all_old_files(
    tmp_path: Path, task: str, stage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    image, model = raster(tmp_path / "a.tif", noise(1, 40, 50)), save(tmp_path / "model", task, 1)
    out = tmp_path / "out" / "o.tif"
    out.parent.mkdir()
    for suffix in (".tif", ".csv", ".gpkg", ".json"):
        out.with_suffix(suffix).write_text(f"old {suffix}")
    before = contents(out.parent)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    plain = os.replace

    def refuse(source: Path, target: Path) -> None:
        full() if target == out else plain(source, target)

    target = {
        "pixels": (tiles, "run_model", full),
        "changed": (predict_module.Source, "_state", iter_states()),
        "siblings": (predict_module, "write_geopackage", full)
        if task == "point-detection"
        else (ImageClassification, "describe", full),
        "publication": (files.os, "replace", refuse),
    }[stage]
    monkeypatch.setattr(*target)
    argv = ["predict", str(image), "-m", str(model), "-o", str(out), "--overwrite"]
    assert main(argv) == (3 if stage == "changed" else 2)
    assert capsys.readouterr().err.count("\n") == 1
    assert contents(out.parent) == before


def iter_states():
    """States of an image that differ each time."""
    counter = iter(range(100))
    return lambda source: [(next(counter), 0)]


def test_geotiff_gets_its_name_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    image, model = raster(tmp_path / "a.tif", noise(1, 40, 50)), save(tmp_path / "model", "point-detection", 1)
    plain, order = os.replace, []
    monkeypatch.setattr(files.os, "replace", lambda a, b: (order.append(Path(b).name), plain(a, b)))
    assert main(["predict", str(image), "-m", str(model), "-o", str(tmp_path / "o.tif")]) == 0
    assert order == ["o.csv", "o.gpkg", "o.tif"]


def test_file_that_appears_meanwhile_is_kept(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    plain = tiles.run_model

    def run(*args: object) -> object:
        (place / "o.tif").write_text("mine")
        return plain(*args)

    monkeypatch.setattr(tiles, "run_model", run)
    assert "o.tif exists" in refused(capsys, "a.tif", "-m", "run", "-o", "o.tif")
    assert (place / "o.tif").read_text() == "mine"


@pytest.mark.parametrize("task", ["semantic-segmentation", "point-detection"])
def test_results_stay_whole_when_q_tif_and_q_tiff_are_written_at_once(tmp_path: Path, task: str):
    """The second run starts inside the first, when that has written half of its rows."""
    image, model = raster(tmp_path / "a.tif", noise(1, 200, 90)), save(tmp_path / "model", task, 1, 64)
    code = """
import subprocess, sys
from xt.cli.main import main
from xt.inference import tiles
argv = ["predict", *sys.argv[1:], "-o"]
plain, calls = tiles.run_model, []
def run(*args):
    calls.append(1)
    if len(calls) == 5:
        code = subprocess.run([sys.executable, "-m", "xt.cli.main", *argv, "q.tiff"]).returncode
        print("second", code)
    return plain(*args)
tiles.run_model = run
print("first", main([*argv, "q.tif"]))
"""
    argv = [sys.executable, "-c", code, str(image), "-m", str(model)]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "first 0" in done.stdout
    written = sorted(p.name for p in tmp_path.glob("*q.*"))
    if task == "point-detection":  # they share q.csv and q.gpkg
        assert "second 2" in done.stdout
        assert "q.gpkg is being written by process" in done.stderr or "q.csv is being written by" in done.stderr
        assert written == ["q.csv", "q.gpkg", "q.tif"]
        return
    assert "second 0" in done.stdout
    assert written == ["q.tif", "q.tiff"]
    with rasterio.open(tmp_path / "q.tif") as a, rasterio.open(tmp_path / "q.tiff") as b:
        assert np.array_equal(a.read(), b.read())
        assert (a.read() < 3).all()


def test_second_run_on_one_output_names_the_first(place: Path, capsys: pytest.CaptureFixture[str]):
    with locked(place / "o.tif"):
        error = refused(capsys, "a.tif", "-m", "run", "-o", "o.tif", "--overwrite")
        assert f"o.tif is being written by process {os.getpid()} on " in error
        assert main(["predict", "a.tif", "b/c.tif", "-m", "run", "-o", "out"]) == 0


def test_next_run_removes_what_a_killed_one_left(place: Path):
    code = """
import os, sys
from xt.cli.main import main
from xt.inference import tiles
tiles.run_model = lambda *args: os._exit(9)
main(sys.argv[1:])
"""
    argv = ["predict", "a.tif", "-m", "run", "-o", "o.tif"]
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", code, *argv], capture_output=True).returncode == 9
    assert len(list(place.glob(".o.tif.*.partial.tif"))) == 1
    assert main(argv) == 0
    assert [p.name for p in place.glob("*o.*")] == ["o.tif"]


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("pair", ["COMPRESS=NOPE", "COMPRESS", "ZLEVEL=99", "width=9", "driver=COG", "PREDICTOR=3"])
def test_wrong_creation_option_is_one_line_and_leaves_nothing(
    place: Path, pair: str, capsys: pytest.CaptureFixture[str]
):
    before = contents(place)
    assert f"--co {pair}: " in refused(capsys, "a.tif", "-m", "run", "-o", "o.tif", "--co", pair)
    assert contents(place) == before


def test_creation_options_reach_the_file_and_change_no_value(place: Path):
    options = ["--co", "COMPRESS=ZSTD", "--co", "BLOCKXSIZE=128", "--co", "blockysize=16"]
    assert main(["predict", "a.tif", "-m", "run", "-o", "o.tif", "--tile", "16", "--overlap", "0"]) == 0
    assert main(["predict", "a.tif", "-m", "run", "-o", "p.tif", "--tile", "16", "--overlap", "0", *options]) == 0
    with rasterio.open("o.tif") as a, rasterio.open("p.tif") as b:
        assert np.array_equal(a.read(), b.read())
        assert (b.compression.name, b.block_shapes) == ("zstd", [(16, 128)])


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]], ids=["", "overwrite"])
@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("images", "output", "reason"),
    [
        ("a.tif", "no/o.tif", "there is no folder no; make it first"), ("a.tif", "a.tif/o.tif", "a.tif is a file"),
        ("a.tif b/c.tif", "hard.tif", "hard.tif is a file"), ("a.tif b/c.tif", "no/out", "there is no folder no"),
        ("a.tif", "out", "name it .tif"), ("a.tif", "full", "full/a.tif is a folder"),
    ],
)  # fmt: skip
def test_outputs_that_cannot_be_are_one_line(
    place: Path, images: str, output: str, reason: str, overwrite: list[str], capsys: pytest.CaptureFixture[str]
):
    (place / "full" / "a.tif").mkdir(parents=True)
    before = sorted(place.rglob("*"))
    assert reason in refused(capsys, *images.split(), "-m", "run", "-o", output, *overwrite)
    assert sorted(place.rglob("*")) == before


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("argv", [["a.tif", "-o", "b/o.tif"], ["a.tif", "data.gpkg", "-o", "b/out"]])
def test_read_only_folder_is_one_line(
    place: Path, argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(os, "access", lambda path, how: Path(path) != Path("b"))  # root may write anywhere
    assert "no right to write in b" in refused(capsys, *argv, "-m", "run")


def test_dangling_link_is_not_replaced_unasked(place: Path, capsys: pytest.CaptureFixture[str]):
    (place / "o.tif").symlink_to("unmounted/o.tif")
    assert "o.tif exists" in refused(capsys, "a.tif", "-m", "run", "-o", "o.tif")


@pytest.mark.parametrize("missing", [True, False])
def test_unreadable_images_leave_no_folder(place: Path, missing: bool, capsys: pytest.CaptureFixture[str]):
    images = ["x.tif", "y.tif"]
    if not missing:
        for image in images:
            (place / image).write_bytes(b"II*\0garbage")
    assert main(["predict", *images, "-m", "run", "-o", "out"]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[2] for line in lines] == images
    assert not (place / "out").exists()
    assert main(["predict", "a.tif", *images, "-m", "run", "-o", "out"]) == 3
    assert [p.name for p in (place / "out").iterdir()] == ["a.tif"]


@pytest.mark.usefixtures("no_model")
def test_missing_model_leaves_no_folder(place: Path, capsys: pytest.CaptureFixture[str]):
    assert "give a run folder" in refused(capsys, "a.tif", "b/c.tif", "-m", "none", "-o", "out")
    assert not (place / "out").exists()


def test_image_without_data_has_no_class_and_no_stale_one(tmp_path: Path):
    image = raster(tmp_path / "a.tif", np.zeros((1, 40, 50), np.float32), nodata=0)
    model = save(tmp_path / "model", "classification", 1)
    (tmp_path / "o.json").write_text("stale")
    assert main(["predict", str(image), "-m", str(model), "-o", str(tmp_path / "o.tif"), "--overwrite"]) == 0
    assert (tmp_path / "o.json").read_text() == '{\n  "class": null,\n  "scores": {}\n}\n'
