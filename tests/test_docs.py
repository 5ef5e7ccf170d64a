"""What the README shows works."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from xt import plugins
from xt.cli.main import COMMANDS
from xt.geometry.grid import TokenLayout

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_plugin_of_the_readme_registers_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (code,) = re.findall(r"```python\n(# my_context.py.*?)```", README, re.S)
    (tmp_path / "my_context.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.load_modules(["my_context"])
    assert "MeanContext" in plugins.names("context_encoders")
    encoder = plugins.build("context_encoders", {"class_path": "MeanContext", "init_args": {"scale": 0.5}}, dim=8)
    layout = TokenLayout(2, 2, 2)
    assert encoder(torch.randn(1, 16, 8), layout).shape == (1, 16, 8)
    assert encoder.spec() == {"class_path": "MeanContext", "init_args": {"dim": 8, "scale": 0.5}}


def test_every_command_is_in_the_readme_and_has_help():
    for name in COMMANDS:
        assert f"`{name}`" in README
        done = subprocess.run(
            [sys.executable, "-m", "xt.cli.main", name, "--help"], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr
        assert "usage: xt" in done.stdout


def test_configs_say_where_they_come_from():
    paths = sorted((ROOT / "configs").glob("*.yaml"))
    assert len(paths) >= 4
    for path in paths:
        head = path.read_text().split("\n\n")[0]
        assert "Source:" in head
        assert "Command: xt train" in head
        assert "Hardware and time:" in head
        task = yaml.safe_load(path.read_text())["model"]["task"]
        assert (task if isinstance(task, str) else task["class_path"]) in plugins.names("tasks")
