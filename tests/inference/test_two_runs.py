"""Two runs at once, or one after another that was killed, leave whole files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import rasterio
from small_inputs import noise, raster, refused, save

from xt.cli.main import main
from xt.files import locked


@pytest.mark.slow
def test_results_stay_whole_when_q_tif_and_q_tiff_are_written_at_once(tmp_path: Path):
    """The second run starts inside the first, when that has written half of its rows."""
    image, model = (
        raster(tmp_path / "a.tif", noise(1, 200, 90)),
        save(tmp_path / "model", "semantic-segmentation", 1, 64),
    )
    code = """
import subprocess, sys
from xt.cli.main import main
from xt.inference import views
argv = ["predict", *sys.argv[1:], "-o"]
plain, calls = views.encode, []
def run(*args):
    calls.append(1)
    if len(calls) == 2:
        code = subprocess.run([sys.executable, "-m", "xt.cli.main", *argv, "q.tiff"]).returncode
        print("second", code)
    return plain(*args)
views.encode = run
print("first", main([*argv, "q.tif"]))
"""
    argv = [sys.executable, "-c", code, str(image), "-m", str(model)]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "first 0" in done.stdout
    assert "second 2" in done.stdout  # they share q.report.json
    assert "q.report.json is being written by process" in done.stderr
    assert sorted(p.name for p in tmp_path.glob("*q.*")) == ["q.report.json", "q.tif"]
    with rasterio.open(tmp_path / "q.tif") as dataset:
        assert (dataset.read() < 3).all()


def test_second_run_on_one_output_names_the_first(place: Path, capsys: pytest.CaptureFixture[str]):
    with locked(place / "o.tif"):
        error = refused(capsys, "a.tif", "-m", "run", "-o", "o.tif", "--overwrite")
        assert f"o.tif is being written by process {os.getpid()} on " in error
        assert main(["predict", "a.tif", "b/c.tif", "-m", "run", "-o", "out"]) == 0


def test_next_run_removes_what_a_killed_one_left(place: Path):
    code = """
import os, sys
from xt.cli.main import main
from xt.inference import views
views.encode = lambda *args: os._exit(9)
main(sys.argv[1:])
"""
    argv = ["predict", "a.tif", "-m", "run", "-o", "o.tif"]
    assert subprocess.run([sys.executable, "-c", code, *argv], capture_output=True).returncode == 9
    assert [path.name for path in place.glob(".o.*") if path.is_dir()] == [".o.tif.job"]
    assert main(argv) == 0
    assert sorted(p.name for p in place.glob("*o.*")) == ["o.report.json", "o.tif"]
