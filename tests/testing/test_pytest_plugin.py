"""What the pytest plug-in makes of a user's tests."""

import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

from xt.testing.kit import CHECKS

ROOT = Path(__file__).parents[2]
TESTS = """
import pytest
import planted
import xt.plugins

xt.plugins.register("context_encoders")(planted.Sound)
xt.plugins.register("context_encoders")(planted.ForgetsTheOrigin)

@pytest.mark.context_encoder(cls=planted.Sound, dim=16, without=["reach"])
def test_sound(context_encoder_check):
    context_encoder_check()

@pytest.mark.context_encoder(cls=planted.ForgetsTheOrigin)
def test_fault(context_encoder_check):
    context_encoder_check()

def test_no_marker(context_encoder_check):
    context_encoder_check()
"""


def test_one_test_for_each_check(tmp_path: Path):
    (tmp_path / "test_mine.py").write_text(TESTS)
    path = [str(ROOT / "tests/testing"), str(ROOT / "tests/models"), *sys.path]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "COLUMNS": "200",
    }
    # By name, since the entry point may be that of another checkout.
    argv = [sys.executable, "-m", "pytest", "-p", "xt.testing.pytest_plugin", "--strict-markers", "-rA", "-q"]
    more = ["-k", "sound or fault or no_marker and shape"]
    done = subprocess.run([*argv, *more], env=environment, cwd=tmp_path, capture_output=True, text=True)
    said = done.stdout
    skipped = {"reach", "losses", "passes", "steps"}
    for name in CHECKS:
        assert (f"PASSED test_mine.py::test_sound[{name}]" in said) == (name not in skipped), said
    assert "left out by the marker" in said
    assert "is no SequentialContextEncoder" in said
    assert "FAILED test_mine.py::test_fault[origin] - xt.testing.report.EncoderFault: ForgetsTheOrigin forgets" in said
    assert "needs @pytest.mark.context_encoder(cls=MyContext, dim=32)" in said
    assert done.returncode == 1


def test_the_entry_point_leads_there_and_costs_nothing():
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert importlib.import_module(entries["xt"]).FIXTURE == "context_encoder_check"
    code = f"import sys, pytest, {entries['xt']}; assert not {{'torch', 'numpy', 'lightning'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
