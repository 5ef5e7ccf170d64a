"""``xt models list``: all that a config can name, and what is broken by name."""

import importlib
import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from xt import plugins
from xt.analysis.catalogue import BASES, catalogue
from xt.cli.main import main
from xt.errors import BrokenPluginError

KIND = "context_encoders"
SOUND = """
from xt.models.context.base import ContextEncoder, Pass, RecurrentContextEncoder, SequentialContextEncoder

class Passes(SequentialContextEncoder):
    family, cost = "mine", "log-linear"
    def passes(self): return ()

class Segments(RecurrentContextEncoder):
    def forward(self, tokens, layout): return tokens
    def step(self, tokens, layout, memory): return tokens, []

class Abstract(RecurrentContextEncoder):
    def forward(self, tokens, layout): return tokens

class Other: ...
number = 3
"""


class Entry:
    dist = SimpleNamespace(name="my-package", version="1.2")

    def __init__(self, name: str, value: str) -> None:
        self.name, self.value = name, value

    def load(self) -> object:
        module, _, attribute = self.value.partition(":")
        return getattr(importlib.import_module(module), attribute)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A package of encoders, some of them broken."""
    (tmp_path / "cat_sound.py").write_text(SOUND)
    (tmp_path / "cat_broken.py").write_text("import none_such_library\n")
    (tmp_path / "cat_raises.py").write_text("raise RuntimeError('no GPU\\nand more')\n")
    (tmp_path / "cat_module.py").write_text(
        "from cat_sound import Passes\nimport xt.plugins\nxt.plugins.register('context_encoders', 'Registered')(Passes)\n"
    )
    entries = [
        Entry("Passes", "cat_sound:Passes"), Entry("Segments", "cat_sound:Segments"), Entry("Other", "cat_sound:Other"),
        Entry("Abstract", "cat_sound:Abstract"), Entry("Number", "cat_sound:number"), Entry("NoClass", "cat_sound:NoClass"),
        Entry("Absent", "cat_broken:Absent"), Entry("Raises", "cat_raises:Raises"), Entry("Hyper", "cat_sound:Passes"),
    ]  # fmt: skip
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(plugins, "_registered", {kind: {} for kind in plugins.BUILTINS})
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries if group == f"xt.{KIND}" else ())
    monkeypatch.setattr(plugins, "_installed", plugins._installed.__wrapped__)
    yield
    for name in [name for name in sys.modules if name.startswith("cat_")]:
        del sys.modules[name]


def test_all_built_in_classes_are_listed_and_sound():
    listed = {(each.kind, each.name): each for each in catalogue()}
    for kind, names in plugins.BUILTINS.items():
        for name in names:
            assert (listed[kind, name].origin, listed[kind, name].broken) == ("built-in", "")
    mamba = listed[KIND, "Mamba"]
    assert (mamba.family, mamba.cost, mamba.streaming) == ("state space", "linear", "passes")
    assert listed[KIND, "TransformerXL"].streaming == "segments"
    assert (listed[KIND, "FullAttention"].cost, listed[KIND, "FullAttention"].streaming) == ("quadratic", "whole")
    assert set(BASES) == set(plugins.BUILTINS)


@pytest.mark.usefixtures("installed")
def test_what_is_installed_is_listed_and_what_is_broken_is_named(capsys: pytest.CaptureFixture):
    argv = ["--plugins", "cat_module", "--plugins", "cat_raises", "--plugins", "none_such"]
    assert main(["models", "list", "--json", *argv]) == 0
    listed = {(each["kind"], each["name"]): each for each in json.loads(capsys.readouterr().out)}
    found = listed[KIND, "Passes"]
    assert found["origin"] == "package my-package 1.2"
    assert (found["family"], found["cost"], found["streaming"]) == ("mine", "log-linear", "passes")
    assert listed[KIND, "Segments"]["streaming"] == "segments"
    assert listed[KIND, "Registered"]["origin"] == "module cat_sound"
    reasons = {
        "Other": "is no subclass of ContextEncoder (xt.models.context.base); derive it from that",
        "Abstract": "does not define step; ContextEncoder (xt.models.context.base) asks for it",
        "Number": "context encoder 'Number', cat_sound:number of package my-package, is no class",
        "NoClass": "cannot be imported: AttributeError: module 'cat_sound' has no attribute 'NoClass'",
        "Absent": "cannot be imported: ModuleNotFoundError: No module named 'none_such_library'; mend or uninstall it",
        "Raises": "cannot be imported: RuntimeError: no GPU; mend or uninstall it",
        "Hyper": "that of xt.models.context.hyper:Hyper and cat_sound:Passes; rename or remove one",
    }
    for name, reason in reasons.items():
        assert reason in listed[KIND, name]["broken"]
    assert listed[KIND, "Hyper"]["origin"] == "built-in and package my-package 1.2"
    assert listed["plugins", "cat_raises"]["broken"] == "RuntimeError: no GPU"
    assert "no module named 'none_such'" in listed["plugins", "none_such"]["broken"]
    sound = {name for (kind, name), each in listed.items() if kind == KIND and not each["broken"]}
    assert sound == {*plugins.BUILTINS[KIND], "Passes", "Registered", "Segments"} - {"Hyper"}


@pytest.mark.usefixtures("installed")
def test_the_table_shows_what_the_json_says(capsys: pytest.CaptureFixture):
    assert main(["models", "list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["Mamba", "built-in", "state", "space", "linear", "passes"] in lines
    assert ["Passes", "package", "my-package", "1.2", "mine", "log-linear", "passes"] in lines
    place = lines.index(["!", "Other", "package", "my-package", "1.2"])
    assert lines[place + 1][:5] == ["is", "no", "subclass", "of", "ContextEncoder"]


@pytest.mark.usefixtures("installed")
def test_a_broken_one_stops_who_asks_for_it_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    with pytest.raises(
        BrokenPluginError, match="'Absent', cat_broken:Absent of package my-package, cannot be imported"
    ):
        plugins.resolve(KIND, "Absent")
    entries = [each for each in plugins.entry_points(group=f"xt.{KIND}") if each.name != "Hyper"]
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries if group == f"xt.{KIND}" else ())
    with caplog.at_level(logging.WARNING):
        classes = plugins.working(KIND)
    assert set(classes) == {*plugins.BUILTINS[KIND], "Passes", "Segments", "Other", "Abstract"}
    assert sum(record.getMessage().startswith("left out: context encoder") for record in caplog.records) == 4
