"""A prediction that is cut off, by a kill, a full disk or a bad tile, goes on."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from small_inputs import noise, raster, save

from xt.cli.main import main
from xt.errors import InputError
from xt.geometry.grid import Window
from xt.inference import engine, views
from xt.inference.journal import Journal
from xt.inference.options import PredictOptions
from xt.inference.predict import open_source, plan_of
from xt.inference.report import facts_of
from xt.models.checkpoint import load_model

HERE = Path(__file__).parent


def broken_runs(folder: Path, mode: str, stride: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What :mod:`faults` says of the unbroken run and of each broken one."""
    raster(folder / "a.tif", noise(1, 260, 330))
    save(folder / "m", "semantic-segmentation", 1)
    (folder / "out").mkdir()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, str(HERE / "faults.py"), str(folder), mode, str(stride)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    _, first, *others = [json.loads(line) if line.startswith("{") else {} for line in done.stdout.splitlines()]
    assert first["first"]["code"] == 0
    assert others
    return first, others


@pytest.mark.parametrize("stride", [67, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_any_change_is_gone_on_from(tmp_path: Path, stride: int):
    first, others = broken_runs(tmp_path, "kill", stride)
    total, resumed = first["first"]["encoded"], 0
    assert total == 30
    for run in others:
        assert run["broken"]["code"] == 9, run
        assert run["again"]["code"] == 0, run
        assert run["got"] == first["want"], run
        all_done = run["left"].get("o.tif") == first["want"]["o.tif"] and "o.report.json" in run["left"]
        assert run["again"]["encoded"] == (0 if all_done else total - run["done"]), run
        resumed += run["done"] > 0
    assert resumed


@pytest.mark.parametrize("stride", [67, pytest.param(1, marks=pytest.mark.slow)])
def test_a_full_disk_at_any_change_is_one_line_and_gone_on_from(tmp_path: Path, stride: int):
    first, others = broken_runs(tmp_path, "full", stride)
    resumed = 0
    for run in others:
        assert run["broken"]["code"] == 2, run
        assert run["error"].startswith("xt: error: "), run
        assert run["error"].count("\n") == 1, run
        assert "No space left" in run["error"], run
        goes_on = "the same command goes on from what is done, in " in run["error"]
        assert goes_on == (run["done"] > 0), run
        assert list(run["left"]) == [".o.tif.job"] * goes_on, run
        assert run["again"]["encoded"] == first["first"]["encoded"] - run["done"], run
        assert run["got"] == first["want"], run
        resumed += run["done"] > 0
    assert resumed


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an image, a model, and a prediction that was interrupted in its fourth window."""
    monkeypatch.chdir(tmp_path)
    raster(tmp_path / "a.tif", noise(1, 260, 330))
    save(tmp_path / "m", "semantic-segmentation", 1)
    plain, calls = views.encode, []

    def stop(*args: Any) -> Any:
        calls.append(1)
        if len(calls) > 6:
            raise KeyboardInterrupt
        return plain(*args)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "COMMIT_SECONDS", 0.0)
        patch.setattr(views, "encode", stop)
        assert main(predict()) == 130
    assert (tmp_path / ".o.tif.job").is_dir()
    return tmp_path


def predict(*more: str) -> list[str]:
    return ["predict", "a.tif", "-m", "m", "-o", "o.tif", "--tile", "128", *more]


@pytest.mark.parametrize("mended", [True, False])
def test_what_is_done_outlives_a_tile_that_cannot_be_read(
    tmp_path: Path, mended: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    raster(tmp_path / "a.tif", noise(1, 260, 330))
    save(tmp_path / "m", "semantic-segmentation", 1)
    monkeypatch.setattr(engine, "COMMIT_SECONDS", 0.0)
    plain_read, plain_encode, encoded = engine.Source.read, views.encode, []

    def read(self: object, window: Window, *more: object) -> object:
        if (window.row, window.col) == (192, 128):
            raise InputError("a.tif: cannot be read: the net is down")
        return plain_read(self, window, *more)

    def encode(model: Any, regions: Any) -> Any:
        encoded.append(len(regions))
        return plain_encode(model, regions)

    def results(argv: list[str]) -> bytes:
        assert main(argv) == 0
        assert not (tmp_path / ".o.tif.job").exists()
        with rasterio.open("o.tif") as out:
            return out.read().tobytes()

    monkeypatch.setattr(views, "encode", encode)
    monkeypatch.setattr(engine.Source, "read", read)
    assert main(predict()) == 3
    error = capsys.readouterr().err
    assert "the net is down; the same command, or with --on-bad-tile nodata, goes on from what is done, in " in error
    if mended:
        monkeypatch.setattr(engine.Source, "read", plain_read)
    argv, done = predict("--on-bad-tile", "fail" if mended else "nodata"), sum(encoded)
    got = results(argv)
    assert 0 < done < sum(encoded) == 30 - (not mended)
    assert got == results([*argv, "--overwrite", "--restart"])
    assert sum(encoded) == 2 * (30 - (not mended))


@pytest.mark.parametrize("change", ["model", "input", "option", "precision"])
def test_what_was_begun_otherwise_is_refused_by_name(place: Path, change: str, capsys: pytest.CaptureFixture[str]):
    more = []
    if change == "model":
        (place / "m/config.json").unlink()
        (place / "m/model.safetensors").unlink()
        save(place / "m", "semantic-segmentation", 1, 256)
    elif change == "input":
        os.utime(place / "a.tif", (1, 1))
    else:
        more = ["--overlap", "0"] if change == "option" else ["--precision", "bf16"]
    capsys.readouterr()
    assert main(predict(*more)) == 2
    error = capsys.readouterr().err
    assert f"was begun with another {'window_regions' if change == 'option' else change}" in error
    assert error.count("\n") == 1
    assert (place / ".o.tif.job").is_dir()
    assert main(predict(*more, "--restart")) == 0
    assert not (place / ".o.tif.job").exists()


def test_all_that_decides_about_a_result_is_among_its_facts(tmp_path: Path):
    path = raster(tmp_path / "a.tif", noise(1, 200, 200))
    mask = raster(tmp_path / "k.tif", np.ones((1, 200, 200), np.uint8))
    model, metadata = load_model(save(tmp_path / "m", "semantic-segmentation", 1))

    def facts(**options: Any) -> dict[str, Any]:
        given = PredictOptions(**options)
        source = open_source(path, metadata, given)
        return facts_of(model, metadata, source, plan_of(model, metadata, source, given), given)

    plain = facts()
    for key, options in {
        "nodata": {"nodata": 7.0}, "complex_abs": {"complex_abs": True}, "on_bad_tile": {"fill_bad_tiles": True},
        "blend": {"blend": "none"}, "tta": {"tta": "d4"}, "context": {"context": "full"}, "precision": {"precision": "bf16"},
        "bands": {"bands": (1,)}, "window": {"crop": Window(0, 0, 200, 200)}, "window_regions": {"tile": 192},
        "input": {"mask": mask},
    }.items():  # fmt: skip
        changed = {name for name, value in facts(**options).items() if value != plain[name]}
        assert changed - {"window_regions"} == {key} - {"window_regions"}, key
        assert key in changed
    for options in ({"overwrite": True}, {"restart": True}, {"max_memory": 1 << 40}, {"creation": {"COMPRESS": "LZW"}}):
        assert facts(**options) == plain, options
    model.decode_size += 64
    assert facts()["decode_size"] == plain["decode_size"] + 64
    assert plain["device"] == "cpu"


@pytest.mark.parametrize("what", ["parts", "regions"])
def test_damaged_work_is_done_anew(place: Path, what: str, capsys: pytest.CaptureFixture[str]):
    victim = sorted((place / ".o.tif.job" / what).iterdir())[0]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    assert main(predict()) == 0
    assert "xt: warning: .o.tif.job: files of an earlier run are damaged; starting anew\n" in capsys.readouterr().err
    got = (place / "o.tif").read_bytes()
    (place / "o.tif").unlink()
    (place / "o.report.json").unlink()
    assert main(predict()) == 0
    assert (place / "o.tif").read_bytes() == got


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_after_the_window_and_the_work_is_kept(
    place: Path, number: int, code: int, monkeypatch: pytest.MonkeyPatch
):
    assert main(predict("--restart")) == 0
    want = (place / "o.tif").read_bytes()
    (place / "o.tif").unlink()
    (place / "o.report.json").unlink()
    plain, calls = views.encode, []

    def signalled(*args: Any) -> Any:
        calls.append(len(args[1]))
        if len(calls) == 4:
            os.kill(os.getpid(), number)
        return plain(*args)

    monkeypatch.setattr(views, "encode", signalled)
    before = set(threading.enumerate())
    assert main(predict()) == code
    assert not {each for each in threading.enumerate() if each.is_alive()} - before
    done = sum(calls)
    assert not (place / "o.tif").exists()
    assert main(predict()) == 0
    assert sum(calls) == 30 > done
    assert (place / "o.tif").read_bytes() == want


def test_a_run_killed_while_or_after_its_files_got_their_names_is_completed(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    out, folder = place / "o.tif", place / ".o.tif.job"

    def killed_at_the_end() -> bytes:
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "clear", lambda journal: None)
            assert main(predict()) == 0
        assert folder.is_dir()
        return out.read_bytes()

    got = killed_at_the_end()
    assert main(predict()) == 0
    assert not folder.exists()
    capsys.readouterr()
    assert main(predict("--co", "COMPRESS=LZW")) == 2  # what is there is not what is asked for
    assert "; --overwrite replaces it" in capsys.readouterr().err
    out.unlink()
    (place / "o.report.json").unlink()
    assert killed_at_the_end() == got
    out.unlink()  # the one that gets its name last
    assert main(predict()) == 0
    assert out.read_bytes() == got
    assert not folder.exists()
