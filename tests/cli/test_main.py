import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio

from xt.cli.main import COMMANDS, main


def without_torch(*argv: str) -> tuple[subprocess.CompletedProcess, float]:
    code = (
        "import sys; from xt.cli.main import main; code = main(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\nsys.exit(code)"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)
    return done, time.perf_counter() - start


@pytest.fixture
def raster(tmp_path: Path) -> Path:
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", count=2, height=5, width=7, dtype="float32", nodata=-9) as out:
        out.write(np.ones((2, 5, 7), np.float32))
    return path


def test_help_and_info_are_quick_and_import_no_torch(raster: Path):
    for argv in (["--help"], ["info", str(raster)], ["score", "--help"], ["info", "--help"]):
        done, seconds = without_torch(*argv)
        assert done.returncode == 0, done.stderr
        assert seconds < 1.5
    assert all(name in without_torch("--help")[0].stdout for name in COMMANDS)


def test_info_says_size_nodata_and_notes(raster: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["info", str(raster)]) == 0
    out = capsys.readouterr().out
    assert "5 rows × 7 columns, 2 bands, float32" in out
    assert "nodata     -9.0" in out
    assert "no georeference" in out
    assert main(["info", "--json", str(raster)]) == 0
    assert json.loads(capsys.readouterr().out)["width"] == 7


def test_one_bad_file_does_not_spoil_the_others(raster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"II*\0garbage")
    assert main(["info", str(bad), str(raster)]) == 3
    captured = capsys.readouterr()
    assert "5 rows" in captured.out
    assert "bad.tif" in captured.err
    assert captured.err.count("\n") == 1


def test_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]):
    assert main(["trian"]) == 2
    assert "did you mean 'train'" in capsys.readouterr().err


def test_error_is_one_line_and_v_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    argv = ["score", str(tmp_path / "p.csv"), str(tmp_path / "l.csv")]
    assert main(argv) == 2
    assert capsys.readouterr().err == f"xt: error: {tmp_path}/p.csv: no such file\n"
    with pytest.raises(ValueError, match="no such file"):
        main(["-v", *argv])


def test_doctor_runs(capsys: pytest.CaptureFixture[str]):
    assert main(["doctor", "--json"]) in (0, 3)
    assert "torch" in json.loads(capsys.readouterr().out)["facts"]
