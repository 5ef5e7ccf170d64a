"""Shares of one image, joined, are what a single run gives."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from small_inputs import noise, raster, save

from xt.cli.main import main
from xt.geometry.grid import Window
from xt.inference import engine, shares, views
from xt.inference.journal import shares_of
from xt.inference.options import PredictOptions
from xt.inference.outcome import Counts, Outcome
from xt.inference.stopwatch import Stopwatch
from xt.models.checkpoint import load_model

TASKS = ["semantic-segmentation", "point-detection", "classification"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an image that has an empty region at its left border, and models."""
    monkeypatch.chdir(tmp_path)
    pixels = noise(1, 500, 330)
    pixels[:, 300:400, :150] = -9
    raster(tmp_path / "a.tif", pixels, nodata=-9)
    for task in TASKS:
        save(tmp_path / task, task, 1, context="Mamba", depth=1)
    return tmp_path


def predict(task: str, out: str, *more: str) -> list[str]:
    return ["predict", "a.tif", "-m", task, "-o", out, "--tile", "192", *more]


def pixels(path: str) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read()


@pytest.mark.parametrize("task", TASKS)
def test_shares_in_any_order_give_the_bits_of_one_run(place: Path, task: str, capsys: pytest.CaptureFixture[str]):
    assert main(predict(task, "whole.tif")) == 0
    for number in (3, 1, 2):
        assert main(predict(task, "o.tif", "--shard", f"{number}/3")) == 0
        assert not (place / "o.tif").exists()
    assert f"share {number} of 3, xt merge o.tif when all are done" in capsys.readouterr().out
    assert main(["merge", "o.tif"]) == 0
    np.testing.assert_array_equal(pixels("o.tif"), pixels("whole.tif"))
    wanted, got = (json.loads(Path(f"{name}.report.json").read_text()) for name in ("whole", "o"))
    for key in set(wanted) - {"files", "seconds", "peak_memory_bytes", "result"}:
        assert got[key] == wanted[key], key
    assert got["result"] == wanted["result"] | {"output": "o.tif"}
    assert got["result"]["empty_regions"] == 2
    for each in place.glob("whole.*"):
        beside = place / each.name.replace("whole", "o")
        assert beside.exists()
        if each.suffix in (".csv", ".geojson") or each.name == "whole.json":
            assert beside.read_bytes() == each.read_bytes()
    assert not [each.name for each in place.iterdir() if each.name.startswith(".")]


def test_answers_count_in_the_order_of_one_run_whatever_share_told_them():
    answers = {2: [-1e16], 0: [1e16], 3: None, 1: [1.0]}  # the sum depends on the order
    mean = Outcome([], Counts(), answers, Stopwatch()).mean
    assert mean is not None
    assert mean.tolist() == [((1e16 + 1.0) - 1e16) / 3]
    assert Outcome([], Counts(), {3: None}, Stopwatch()).mean is None


def test_a_queue_that_is_repeated_finds_all_of_it_done(place: Path, capsys: pytest.CaptureFixture[str]):
    for again in (False, True):
        for number in (1, 2):
            assert main([*predict("point-detection", "o.tif"), "--shard", f"{number}/2"]) == 0
            told = capsys.readouterr().out
            assert ("; done before, --overwrite makes it anew\n" in told, "xt merge" in told) == (again, not again)
        before = None if not again else (place / "o.tif").stat().st_mtime_ns
        assert main(["merge", "o.tif"]) == 0
        assert capsys.readouterr().out.endswith("; no share is left to join, it was made before\n") == again
        assert before in (None, (place / "o.tif").stat().st_mtime_ns)
    assert main(["merge", "o.tif", "--overwrite"]) == 2
    assert "no share of it is here" in capsys.readouterr().err


def test_more_shares_than_windows_leave_some_without_work(place: Path):
    few = ["--tile", "448", "--overlap", "64"]
    assert main(predict(TASKS[0], "whole.tif", *few)) == 0
    for number in range(1, 4):
        assert main(predict(TASKS[0], "o.tif", *few, "--shard", f"{number}/3")) == 0
    assert main(["merge", "o.tif", "--json"]) == 0
    np.testing.assert_array_equal(pixels("o.tif"), pixels("whole.tif"))


def test_what_merge_was_not_given_is_named(place: Path, capsys: pytest.CaptureFixture[str]):
    def refused(*argv: str) -> str:
        capsys.readouterr()
        assert main(["merge", *argv]) == 2
        error = capsys.readouterr().err
        assert error.startswith("xt: error: ")
        assert error.count("\n") == 1
        return error

    assert "no share of it is here; predict them with --shard" in refused("o.tif")
    assert "there is no folder nowhere" in refused("nowhere/o.tif")
    assert main(predict(TASKS[0], "o.tif", "--shard", "1/2")) == 0
    assert "share 2/2 is not complete; run --shard 2/2 again" in refused("o.tif")
    assert main(predict(TASKS[0], "o.tif", "--shard", "2/2", "--blend", "none")) == 0
    assert "share 2/2 was made with another blend" in refused("o.tif")
    assert main(predict(TASKS[0], "o.tif", "--shard", "2/2", "--restart", "--co", "COMPRESS=ZSTD")) == 0
    assert "share 2/2 was made with another creation" in refused("o.tif")
    assert main(predict(TASKS[0], "o.tif", "--shard", "2/2", "--restart")) == 0
    part = next((place / ".o.tif.2-of-2.job/parts").iterdir())
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    assert "parts are damaged" in refused("o.tif")
    assert not (place / "o.tif").exists()
    part.write_bytes(whole)
    (place / "o.tif").write_bytes(b"mine")
    assert "o.tif exists; --overwrite replaces it" in refused("o.tif")
    assert (place / "o.tif").read_bytes() == b"mine"
    assert main(["merge", "o.tif", "--overwrite"]) == 0
    assert main(predict(TASKS[0], "o.tif", "--shard", "1/2", "--overwrite")) == 0
    assert main(predict(TASKS[0], "o.tif", "--shard", "1/3", "--overwrite")) == 0
    assert "shares of different numbers (.o.tif.1-of-2.job, .o.tif.1-of-3.job)" in refused("o.tif")


def test_an_image_that_changed_between_its_shares_is_refused(place: Path, capsys: pytest.CaptureFixture[str]):
    for number in (1, 2):
        assert main(predict(TASKS[0], "o.tif", "--shard", f"{number}/2")) == 0
    raster(place / "a.tif", noise(1, 500, 330) + 1)
    assert main(["merge", "o.tif"]) == 3
    assert "has changed since its shares were predicted" in capsys.readouterr().err


def test_a_share_goes_on_and_is_not_done_twice(place: Path, monkeypatch: pytest.MonkeyPatch):
    plain, encoded = views.encode, []

    def count(model, image):
        encoded.append(len(image))
        if len(encoded) == stop_at:
            raise KeyboardInterrupt
        return plain(model, image)

    monkeypatch.setattr(views, "encode", count)
    monkeypatch.setattr(engine, "COMMIT_SECONDS", 0.0)
    stop_at = 0
    assert main(predict(TASKS[0], "o.tif", "--shard", "2/2")) == 0
    needed, stop_at = sum(encoded), 4
    encoded.clear()
    assert main(predict(TASKS[0], "q.tif", "--shard", "2/2")) == 130
    lost = encoded.pop()
    stop_at = 0
    assert main(predict(TASKS[0], "q.tif", "--shard", "2/2")) == 0
    assert needed <= sum(encoded) <= needed + lost
    encoded.clear()
    assert main(predict(TASKS[0], "q.tif", "--shard", "2/2")) == 0
    assert not encoded
    assert main(predict(TASKS[0], "q.tif", "--shard", "1/2")) == 0
    assert main(["merge", "q.tif"]) == 0
    assert main(predict(TASKS[0], "whole.tif")) == 0
    np.testing.assert_array_equal(pixels("q.tif"), pixels("whole.tif"))


def test_shares_of_a_part_of_an_image_are_joined_in_another_folder(place: Path, monkeypatch: pytest.MonkeyPatch):
    given = {"driver": "GTiff", "crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 6e6)}
    raster(place / "a.tif", noise(1, 500, 330), **given)
    mask = np.zeros((1, 500, 330), np.uint8)
    mask[:, 40:460, 30:300] = 1
    raster(place / "k.tif", mask)
    ring = [[x, y] for x, y in ((5.001e5, 5.9999e6), (5.03e5, 5.9985e6), (5.005e5, 5.9951e6), (5.001e5, 5.9999e6))]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}}
    area = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    (place / "p.geojson").write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [area]}))
    part = ["--aoi", "p.geojson", "--mask", "k.tif", "--window", "20,10,460,310"]
    assert main(predict(TASKS[1], "whole.tif", *part)) == 0
    for number in (1, 2):
        assert main(predict(TASKS[1], "o.tif", *part, "--shard", f"{number}/2")) == 0
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    assert main(["merge", "../o.tif"]) == 0
    np.testing.assert_array_equal(pixels("../o.tif"), pixels("../whole.tif"))
    assert 0 < np.isfinite(pixels("../o.tif")).mean() < 0.5
    assert (place / "o.geojson").read_bytes() == (place / "whole.geojson").read_bytes()


def test_shares_are_told_from_those_of_other_outputs(tmp_path: Path):
    for name in (".o.tif.2-of-2.job", ".o.tif.1-of-2.job", ".oxtif.1-of-3.job", ".p.o.tif.1-of-4.job", ".o.tif.job"):
        (tmp_path / name).mkdir()
    found = shares_of(tmp_path / "o.tif")
    assert found == {(number, 2): tmp_path / f".o.tif.{number}-of-2.job" for number in (1, 2)}
    assert list(found) == [(1, 2), (2, 2)]


def test_merge_knows_how_the_shares_were_asked_for(tmp_path: Path):
    _, metadata = load_model(save(tmp_path / "m", TASKS[0], 2))
    image = raster(tmp_path / "a.tif", noise(2, 20, 20))
    options = PredictOptions(
        bands=(2, 1), nodata=0.0, aoi=tmp_path / "p.geojson", mask=tmp_path / "k.tif", crop=Window(1, 2, 3, 4),
        complex_abs=True, creation={"COMPRESS": "LZW"},
    )  # fmt: skip
    for given in (options, PredictOptions()):
        kept = json.loads(json.dumps(shares._request(image, metadata, given)))
        assert shares._asked(kept, True) == (image, metadata, replace(given, overwrite=True))


def test_a_merge_that_was_cut_off_at_its_end_is_completed(place: Path, monkeypatch: pytest.MonkeyPatch):
    for number in (1, 2):
        assert main(predict(TASKS[0], "o.tif", "--shard", f"{number}/2")) == 0

    def stopped(folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shares, "remove_job", stopped)
        assert main(["merge", "o.tif"]) == 130
    before = (place / "o.tif").stat().st_mtime_ns
    assert main(["merge", "o.tif"]) == 0
    assert (place / "o.tif").stat().st_mtime_ns == before
    assert not list(place.glob(".o.tif.*.job"))


def test_a_share_that_was_cut_off_is_not_joined(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert main(predict(TASKS[0], "o.tif", "--shard", "1/2")) == 0
    plain, calls = views.encode, []

    def stopped(*args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return plain(*args)

    with monkeypatch.context() as patch:
        patch.setattr(views, "encode", stopped)
        patch.setattr(engine, "COMMIT_SECONDS", 0.0)
        assert main(predict(TASKS[0], "o.tif", "--shard", "2/2")) == 130
    assert (place / ".o.tif.2-of-2.job").is_dir()
    assert main(["merge", "o.tif"]) == 2
    assert "share 2/2 is not complete; run --shard 2/2 again" in capsys.readouterr().err
    assert not (place / "o.tif").exists()


def test_who_needs_plug_ins_is_told_that_merge_needs_them(place: Path, capsys: pytest.CaptureFixture[str]):
    assert main(predict(TASKS[0], "o.tif", "--shard", "1/2", "--plugins", "json", "--plugins", "csv")) == 0
    assert "xt merge o.tif --plugins json --plugins csv when all are done" in capsys.readouterr().out


def test_a_share_of_the_full_context_is_refused(place: Path, capsys: pytest.CaptureFixture[str]):
    assert main(predict(TASKS[0], "o.tif", "--shard", "1/2", "--context", "full")) == 2
    assert "--context full mixes a scene in one process" in capsys.readouterr().err
    assert not list(place.glob(".o*"))


def test_a_share_at_work_holds_its_own_lock_and_merge_names_it(place: Path, capsys: pytest.CaptureFixture[str]):
    from xt.files import locked

    for number in (1, 2):
        assert main(predict(TASKS[0], "o.tif", "--shard", f"{number}/2")) == 0
    with locked(place / ".o.tif.2-of-2.job"):
        assert main(predict(TASKS[0], "o.tif", "--shard", "2/2")) == 2
        assert ".o.tif.2-of-2.job is being written by process" in capsys.readouterr().err
        assert main(["merge", "o.tif"]) == 2
        assert ".o.tif.2-of-2.job is being written by process" in capsys.readouterr().err
    with locked(place / "o.tif"):
        assert main(["merge", "o.tif"]) == 2
        assert "/o.tif is being written by process" in capsys.readouterr().err
    assert main(["merge", "o.tif"]) == 0
