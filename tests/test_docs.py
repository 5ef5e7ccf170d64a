"""What the README shows works."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import yaml

from xt import plugins
from xt.cli.main import COMMANDS, main
from xt.geometry.grid import TokenLayout
from xt.testing import DecoderFault, EncoderFault, check_context_encoder, check_decoder, pytest_plugin
from xt.testing.kit import CHECKS
from xt.training.schema import check_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PARTS = (ROOT / "docs/own-parts.md").read_text()
CONTEXTS = (ROOT / "docs/context-encoders.md").read_text()


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch):
    """What a page registers is forgotten, and so is its module."""
    for module in ("my_context", "my_parts"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(plugins, "_registered", {kind: {} for kind in plugins.BUILTINS})


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
    check_context_encoder(type(encoder))


def test_page_on_context_encoders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, pytestconfig: pytest.Config
):
    pytest_plugin.pytest_configure(pytestconfig)  # where it is not installed, its marker is unknown
    encoder, check, in_pytest, passes = re.findall(r"```python\n(.*?)```", CONTEXTS, re.S)
    (tmp_path / "my_context.py").write_text(encoder)
    monkeypatch.syspath_prepend(str(tmp_path))
    exec(check, {})
    said = capsys.readouterr().out.splitlines()
    assert f"`{said[0]}`" in CONTEXTS
    values: dict[str, Any] = {}
    exec(in_pytest, values)
    (mark,) = values["test_linear_attention"].pytestmark
    check_context_encoder(**mark.kwargs)
    sound = values["LinearAttention"]
    mixed = type(
        "LinearAttention", (sound,), {"forward": lambda self, x, layout: sound.forward(self, x, layout) + x.mean(0)}
    )
    with pytest.raises(EncoderFault) as caught:
        check_context_encoder(mixed)
    assert f"EncoderFault: {caught.value}" in " ".join(CONTEXTS.split())
    values["__name__"] = "my_passes"
    exec(passes, values)
    report = check_context_encoder(values["MeanSoFar"])
    assert "passes" in {finding.check for finding in report.findings if finding.applies}


def test_page_on_parts_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    blocks = re.findall(r"```python\n(.*?)```", PARTS, re.S)
    (check,) = (each for each in blocks if "from my_parts" in each)
    code = [each for each in blocks if each != check]
    (config,) = re.findall(r"```yaml\n(.*?)```", PARTS, re.S)
    (tmp_path / "my_parts.py").write_text("\n\n".join(code))
    (tmp_path / "my_parts.yaml").write_text(config)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    exec(check, {})
    trained, scored, predicted = re.findall(r"^    xt (train|eval|predict) (.*?)(?: +#.*)?$", PARTS, re.M)
    assert main([*" ".join(trained).split(), "--trainer.max_epochs", "4"]) == 0
    assert main(" ".join(scored).split()) == 0
    scores = json.loads(Path("runs/my_parts/test.json").read_text())
    assert scores["test/within_a_metre"] > 0.6  # the best constant reaches 0.18
    sample = sys.modules["my_parts"].Lakes(1, 100, 7)[0, 0]
    size = {"count": 2, "height": 100, "width": 100, "dtype": "float32", "driver": "GTiff"}
    with rasterio.open("lake.tif", "w", **size) as out:
        out.write(sample["image"].numpy() + 1)
    assert main(" ".join(predicted).split()) == 0
    with rasterio.open("depth.tif") as found:
        error = np.abs(found.read(1) - sample["values"].numpy()[0])
    assert np.nanmedian(error) < 1
    upwards = sys.modules["my_parts"].Upwards
    reaching = type("Upwards", (upwards,), {"halo": property(lambda self: 0, lambda self, value: None)})
    with pytest.raises(DecoderFault) as caught:
        check_decoder(reaching)
    assert f"DecoderFault: {caught.value}" in " ".join(PARTS.split())


def test_commands_and_tables_of_the_page_on_context_encoders():
    assert re.findall(r"^\| `(\w+)` \|", CONTEXTS, re.M) == list(CHECKS)
    trains = re.findall(r"^    xt train (\S+) (?:--plugins \S+ )?(.*)$", CONTEXTS, re.M)
    assert len(trains) == 2
    for config, overrides in trains:
        check_config(ROOT / config, overrides.split(), more_plugins=True)
    (part,) = re.findall(r"```yaml\n(.*?)```", CONTEXTS, re.S)
    demo = yaml.safe_load((ROOT / "configs/xview3_demo.yaml").read_text())
    given = yaml.safe_load(part)
    assert set(given["model"]["model"]) <= set(demo["model"]["model"])
    entry = re.search(r"FadingMeans = .*", CONTEXTS).group()
    assert entry in (ROOT / "examples/fading/pyproject.toml").read_text()


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
