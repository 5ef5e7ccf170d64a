"""Checks the keys of a training config without importing torch: signatures are read from the source by ``ast``.

What needs values or types is left to LightningCLI; here a misspelt key or class name is found at once, and named.
"""

import ast
import functools
import importlib.util
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import xt
from xt import plugins
from xt.builtin_names import BUILTINS
from xt.errors import ConfigError, nearest
from xt.training import strict_yaml

TOP = ("seed_everything", "plugins", "trainer", "model", "data", "run_dir", "checkpoint_every")
CLASS = ("class_path", "init_args", "dict_kwargs")
CLASSES = {
    "data": "data_modules",
    "model.task": "tasks",
    "model.task.loss": "losses",
    "model.model.region_encoder": "region_encoders",
    "model.model.context": "context_encoders",
    "model.model.decoder": "decoders",
}
"""Where a class is named, ``init_args`` left out of the path → its kind."""
DEFAULT_LOSSES = {
    "SemanticSegmentation": "SegmentationLoss",
    "PixelRegression": "RegressionLoss",
    "PointDetection": "DetectionLoss",
    "ObjectDetection": "ClassLoss",
}
"""Task → the loss that it takes by itself."""
REQUIRED = ("model.task", "data")
SUPPLIED = ("self", "in_chans", "dim", "inputs")
"""What the data and the model give to its parts."""


def check_config(path: Path, overrides: Sequence[str], more_plugins: bool = False, loaded: bool = False) -> None:
    """Check a config's keys and those of the overrides.

    Args:
        path: YAML file.
        overrides: ``--key.sub value`` or ``--key.sub=value``.
        more_plugins: Modules beside those of the config register classes, whose names are not known here.
        loaded: All modules are imported, so that every name is known.

    Raises:
        ConfigError: If a key or class name is unknown; the message gives the file, the key and the nearest valid one.
    """
    values = strict_yaml.load(path)
    checker = _Checker(values, not loaded and (more_plugins or bool(values.get("plugins"))))
    checker.check(str(path), values)
    for place in REQUIRED:
        if not checker.said(place.split(".")):
            known = ", ".join(plugins.names(CLASSES[place]))
            raise ConfigError(f"{path}: no {place}:; give one of {known}, see configs/")
    for each, after in pairwise([*overrides, "--"]):
        if each.startswith("--"):
            name, equals, value = each.partition("=")
            if not equals and after.startswith("--") and name != "--print_config":
                raise ConfigError(f"{name} has no value; write {name} VALUE")
            given: Any = value if equals else after
            for key in reversed(name[2:].split(".")):
                given = {key: given}
            checker.check(name, given, override=True)


class _Checker:
    def __init__(self, config: dict[str, Any], open_names: bool) -> None:
        self.config, self.open_names = config, open_names
        self.renamed: dict[
            tuple[str, ...], Any
        ] = {}  # place → class of an override, to which later ones give arguments

    def said(self, path: Sequence[str]) -> Any:
        """What the config says at a place."""
        value: Any = self.config
        for key in path:
            if isinstance(value, dict) and key not in value and isinstance(value.get("init_args"), dict):
                value = value["init_args"]
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def check(
        self, where: str, value: Any, path: tuple[str, ...] = (), shown: str = "", override: bool = False
    ) -> None:
        """Check a value and what is below it.

        Args:
            where: File or override, for messages.
            value: What is given.
            path: Keys that lead to it, without ``init_args``.
            shown: The same, with them.
            override: Arguments may stand beside ``class_path``.
        """
        place = ".".join(path)
        allowed = _keys(place)
        if override and not path:
            allowed = (*TOP, "fresh", "config", "print_config")
        if place in CLASSES:
            value, allowed = self._class(where, value, path, shown, override)
            shown += ".init_args"
        if allowed is None or not isinstance(value, dict):
            return
        for key, below in value.items():
            full = f"{shown}.{key}".lstrip(".")
            if not path and key in ("optimizer", "lr_scheduler"):  # which LightningCLI knows elsewhere
                raise ConfigError(
                    f"{where}: {key} cannot be chosen: it is AdamW, with a warm-up and a cosine; give model.lr, "
                    "model.weight_decay and model.warmup_steps"
                )
            if key not in allowed:
                named = key if override else full
                raise ConfigError(f"{where}: unknown key {named!r}{nearest(str(key), allowed)}")
            self.check(where, below, (*path, key), full, override)

    def _class(
        self, where: str, value: Any, path: tuple[str, ...], shown: str, override: bool
    ) -> tuple[Any, tuple[str, ...] | None]:
        """Check the name of a class; return what is given to it, and what it takes if that is known."""
        kind = CLASSES[".".join(path)]
        if isinstance(value, str):
            value = {"class_path": value} if value.isidentifier() or not override else None
        if not isinstance(value, dict):
            return None, None
        known = plugins.names(kind)
        name = value.get("class_path")
        if name is None and not override:
            _known(where, shown, value, CLASS)
            raise ConfigError(f"{where}: {shown} has no class_path; known: {', '.join(known)}")
        if isinstance(name, str) and "." not in name and not self.open_names and name not in known:
            what = where if override else f"{where}: {shown}.class_path"
            raise ConfigError(f"{what} {name!r} is unknown{nearest(name, known)}")
        if not override:
            _known(where, shown, value, CLASS)
        if override and name:
            self.renamed[path] = name
        name = name or self._named(path)
        if name is None and override:
            default = DEFAULT_LOSSES.get(self._named(("model", "task"))) if kind == "losses" else None
            one = default or f"NAME (one of {', '.join(known)})"
            raise ConfigError(f"{where}: no class is named that takes it; put --{'.'.join(path)} {one} before it")
        given = {key: each for key, each in value.items() if key not in CLASS}
        given |= value.get("init_args") or {}
        homes = BUILTINS[kind]
        target = homes.get(str(name)) or next((each for each in homes.values() if each.replace(":", ".") == name), None)
        return given, None if target is None else _parameters(target)

    def _named(self, path: tuple[str, ...]) -> Any:
        """The class that the overrides so far, or else the config, name at a place."""
        before = self.said(path)
        return self.renamed.get(path) or (before.get("class_path") if isinstance(before, dict) else before)


def _keys(place: str) -> tuple[str, ...] | None:
    """What may stand at a place where no class is named; None where anything may."""
    if place == "trainer":
        return _trainer_keys()
    if place == "model":
        return _parameters("xt.training.module:TrainingModule")
    if place == "model.model":
        return _fields("xt.models.factory:ModelConfig")
    return TOP if place == "" else None


def _known(where: str, key: str, value: dict[str, Any], allowed: tuple[str, ...]) -> None:
    for each in value:
        if each not in allowed:
            raise ConfigError(f"{where}: unknown key {f'{key}.{each}'!r}{nearest(str(each), allowed)}")


@functools.cache
def _parameters(target: str) -> tuple[str, ...]:
    """Arguments of a class, from its own constructor or that of its nearest base in xt that has one."""
    node = _class_node(target)
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            return _argument_names(each)
    module = target.partition(":")[0]
    tree = ast.parse((Path(xt.__file__).parents[1] / Path(*module.split(".")).with_suffix(".py")).read_text("utf-8"))
    homes = {each.name: module for each in tree.body if isinstance(each, ast.ClassDef)}
    for each in tree.body:
        if isinstance(each, ast.ImportFrom) and each.module and each.module.startswith("xt."):
            homes |= {alias.name: each.module for alias in each.names}
    bases = [base.id for base in node.bases if isinstance(base, ast.Name) and base.id in homes]
    return next(filter(None, (_parameters(f"{homes[base]}:{base}") for base in bases)), ())


@functools.cache
def _fields(target: str) -> tuple[str, ...]:
    body = _class_node(target).body
    return tuple(n.target.id for n in body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name))


@functools.cache
def _trainer_keys() -> tuple[str, ...]:
    spec = importlib.util.find_spec("lightning")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    source = Path(spec.submodule_search_locations[0]) / "pytorch" / "trainer" / "trainer.py"
    tree = ast.parse(source.read_text(encoding="utf-8"))
    trainer = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Trainer")
    constructor = next(n for n in trainer.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    return _argument_names(constructor)


def _class_node(target: str) -> ast.ClassDef:
    module, _, name = target.partition(":")
    source = Path(xt.__file__).parents[1] / Path(*module.split(".")).with_suffix(".py")
    tree = ast.parse(source.read_text(encoding="utf-8"))
    return next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)


def _argument_names(function: ast.FunctionDef) -> tuple[str, ...]:
    arguments = [*function.args.args, *function.args.kwonlyargs]
    return tuple(each.arg for each in arguments if each.arg not in SUPPLIED)
