"""No output destroys what is the user's."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from small_inputs import contents, noise, raster, refused, save

import xt
from xt.cli.main import main
from xt.errors import OutputError
from xt.inference import predict as predict_module
from xt.inference import views
from xt.inference.options import PredictOptions
from xt.inference.outputs import may_be_done
from xt.inference.shares import predict_share
from xt.models import checkpoint


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model must not load."""

    def fail(path: Path) -> None:
        pytest.fail("the model was loaded")

    monkeypatch.setattr(checkpoint, "load_model", fail)


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


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("option", ["aoi", "mask"])
def test_what_limits_an_image_is_an_input_too(place: Path, option: str, capsys: pytest.CaptureFixture[str]):
    (place / "zone.geojson").write_text("polygons")
    raster(place / "zone.tif", np.ones((1, 40, 50), np.uint8))
    given = {"aoi": "zone.geojson", "mask": "zone.tif"}[option]
    before = contents(place)
    argv = ["a.tif", "-m", "detect", "-o", "zone.tif", "--overwrite", f"--{option}", given]
    assert f"would replace the input {given}" in refused(capsys, *argv)
    assert contents(place) == before


def test_library_refuses_it_too(place: Path):
    model, metadata = checkpoint.load_model(place / "run")
    raster(place / "k.tif", np.ones((1, 40, 50), np.uint8))
    for out, options in (("link.tif", {}), ("k.tif", {"mask": place / "k.tif"})):
        given = model, metadata, place / "a.tif", place / out
        with pytest.raises(OutputError, match="would replace the input"):
            predict_module.predict_image(*given, PredictOptions(overwrite=True, **options))
        with pytest.raises(OutputError, match="would replace the input"):
            predict_share(*given, PredictOptions(overwrite=True, share=(1, 2), **options))
    with xt.predict(xt.load(place / "run"), place / "a.tif", mask=place / "k.tif") as result:
        for out in ("link.tif", "k.tif"):
            with pytest.raises(OutputError, match="would replace the input"):
                result.write(place / out, overwrite=True)


@pytest.mark.parametrize("reason", ["exists; --overwrite", "needs up to 0 MiB"])
def test_library_finds_faults_before_the_work(place: Path, reason: str, monkeypatch: pytest.MonkeyPatch):
    if "exists" in reason:
        (place / "o.tif").write_text("mine")
    else:
        free = 2 * 40 * 50 - 1  # parts, and the raster that is made of them
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9999, 9999 - free, free))
    monkeypatch.setattr(views, "encode", lambda *args: pytest.fail("the work has begun"))
    model, metadata = checkpoint.load_model(place / "run")
    with pytest.raises(OutputError, match=reason):
        predict_module.predict_image(model, metadata, place / "a.tif", place / "o.tif", PredictOptions())


TASKS = [("point-detection", ".csv"), ("point-detection", ".gpkg"), ("point-detection", ".geojson"), ("classification", ".json"),
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


def test_file_that_appears_meanwhile_is_kept(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    plain = views.encode

    def run(*args: object) -> object:
        (place / "o.tif").write_text("mine")
        return plain(*args)

    monkeypatch.setattr(views, "encode", run)
    assert "o.tif exists" in refused(capsys, "a.tif", "-m", "run", "-o", "o.tif")
    assert (place / "o.tif").read_text() == "mine"


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("pair", ["COMPRESS=NOPE", "COMPRESS", "LEVEL=99", "width=9", "driver=COG", "PREDICTOR=3"])
def test_wrong_creation_option_is_one_line_and_leaves_nothing(
    place: Path, pair: str, capsys: pytest.CaptureFixture[str]
):
    before = contents(place)
    assert f"--co {pair}: " in refused(capsys, "a.tif", "-m", "run", "-o", "o.tif", "--co", pair)
    assert contents(place) == before


def test_creation_options_reach_the_file_and_change_no_value(place: Path):
    options = ["--co", "COMPRESS=ZSTD", "--co", "blocksize=128"]
    assert main(["predict", "a.tif", "-m", "run", "-o", "o.tif", "--tile", "16", "--overlap", "0"]) == 0
    assert main(["predict", "a.tif", "-m", "run", "-o", "p.tif", "--tile", "16", "--overlap", "0", *options]) == 0
    with rasterio.open("o.tif") as a, rasterio.open("p.tif") as b:
        assert np.array_equal(a.read(), b.read())
        assert (b.compression.name, b.block_shapes) == ("zstd", [(128, 128)])


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]], ids=["", "overwrite"])
@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("images", "output", "reason"),
    [
        ("a.tif", "no/o.tif", "there is no folder no; make it first"), ("a.tif", "a.tif/o.tif", "a.tif is a file"),
        ("a.tif b/c.tif", "data.gpkg", "data.gpkg is a file"), ("a.tif b/c.tif", "no/out", "there is no folder no"),
        ("a.tif", "out", "name it .tif, or make the folder first"), ("a.tif b/c.tif", "o.tif", "2 images go into a folder"),
        ("a.tif", "full", "full/a.tif is a folder"),
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
    assert sorted(p.name for p in (place / "out").iterdir()) == ["a.report.json", "a.tif"]


@pytest.mark.parametrize(
    "argv",
    [
        ["predict", "a.tif", "-m", "run", "-o", ""], ["predict", "a.tif", "-m", "", "-o", "o.tif"],
        ["predict", "a.tif", "-m", "run", "-o", "o.tif", "--aoi", ""], ["merge", ""], ["report", "run", "-o", ""],
        ["features", "a.tif", "-m", "run", "-o", ""], ["vectorize", "a.tif", "-o", ""], ["export", "run", "-o", ""],
        ["synth", "xview3", ""], ["import-upstream", "a.pth", "-o", ""], ["bench", "contexts", "-o", ""],
    ],
)  # fmt: skip
def test_an_empty_name_is_not_the_current_folder(place: Path, argv: list[str], capsys: pytest.CaptureFixture[str]):
    before = sorted(place.rglob("*"))
    assert main(argv) == 2
    assert ": is empty; name a file or folder; xt " in capsys.readouterr().err
    assert sorted(place.rglob("*")) == before


def test_a_prediction_says_that_it_is_closed_or_its_folder_missing(place: Path):
    with xt.predict(xt.load("run"), "a.tif") as result:
        with pytest.raises(OutputError, match="there is no folder nodir; make it first"):
            result.write("nodir/o.tif")
    assert not (place / "nodir").exists()
    with pytest.raises(ValueError, match=r"^the prediction of a\.tif is closed; read it inside the with block$"):
        result.read()
    with pytest.raises(ValueError, match=r"^the prediction of a\.tif is closed; write it inside the with block$"):
        result.write("o.tif")


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


@pytest.mark.parametrize("fault", ["a file is gone", "the input has changed"])
def test_a_result_counts_as_done_only_whole_and_of_the_same_input(place: Path, fault: str):
    assert main(["predict", "a.tif", "-m", "detect", "-o", "o.tif"]) == 0
    out, image = place / "o.tif", Path("a.tif")
    assert may_be_done(out, image)
    assert not may_be_done(out, Path("b/c.tif"))
    if fault == "a file is gone":
        (place / "o.gpkg").unlink()
    else:
        os.utime("a.tif", (1, 1))
    assert not may_be_done(out, image)
