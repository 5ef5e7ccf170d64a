"""Images with wrong bytes are refused in one line, or read; nothing crashes, hangs or is left behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("count", [25, pytest.param(2000, marks=pytest.mark.slow)])
def test_images_with_wrong_bytes(tmp_path: Path, count: int):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]), "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, "-W", "ignore", str(HERE / "fuzz.py"), str(tmp_path), str(count)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not done.stderr  # what C libraries print there
    *wrong, last = map(json.loads, done.stdout.splitlines())
    assert not wrong, wrong[:3]
    assert sum(last["codes"].values()) == count
    assert min(last["codes"].get("0", 0), last["codes"].get("3", 0)) > count // 10
