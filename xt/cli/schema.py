"""Checks the keys of a training config without importing torch: signatures are read from the source by ``ast``.

What needs values or types is left to LightningCLI; here a misspelt key or class name is found at once, and named.
"""

import ast
import functools
import importlib.util
from itertools import pairwise
from pathlib import Path
from typing import Any

import xt
from xt import plugins
from xt.errors import ConfigError, nearest
from xt.training import strict_yaml

TOP = (
    "seed_everything",
    "plugins",
    "trainer",
    "model",
    "data",
    "run_dir",
    "checkpoint_every",
    "optimizer",
    "lr_scheduler",
)
CLASS = ("class_path", "init_args", "dict_kwargs")
LOSS = "losses"
PARTS = {"region_encoder": "region_encoders", "context": "context_encoders", "decoder": "decoders"}
SUPPLIED = ("self", "dim", "inputs")


def check_config(path: Path, overrides: list[str], more_plugins: bool = False) -> None:
    """Check a config's keys and those of the overrides.

    Args:
        path: YAML file.
        overrides: ``--key.sub value`` or ``--key.sub=value``.
        more_plugins: Modules beside those of the config register classes, whose names are not known here.

    Raises:
        ConfigError: If a key or class name is unknown; the message gives the file, the key and the nearest valid one.
    """
    values = strict_yaml.load(path)
    open_names = more_plugins or bool(values.get("plugins"))
    _known(str(path), "", values, TOP)
    _known(str(path), "trainer", values.get("trainer"), _trainer_keys())
    for key, kind in (("model", "tasks"), ("data", "data_modules")):
        if not values.get(key):
            raise ConfigError(f"{path}: no {key}:; give one of {', '.join(plugins.names(kind))}, see configs/")
        _class(str(path), key, values[key], kind, open_names)
    for each, after in pairwise([*overrides, "--"]):
        if each.startswith("--"):
            name, equals, value = each.partition("=")
            if not equals and after.startswith("--"):
                raise ConfigError(f"{name} has no value; write {name} VALUE")
            _override(name[2:].split("."), value if equals else after, values, open_names)


def _class(where: str, key: str, value: Any, kind: str, open_names: bool) -> None:
    if isinstance(value, str):
        value = {"class_path": value}
    if not isinstance(value, dict):
        return
    _known(where, key, value, CLASS)
    name = value.get("class_path")
    if not isinstance(name, str):
        raise ConfigError(f"{where}: {key} has no class_path; known: {', '.join(plugins.names(kind))}")
    _class_name(f"{where}: {key}.class_path", name, kind, open_names)
    arguments = value.get("init_args")
    if name in plugins.BUILTINS[kind]:
        _known(where, f"{key}.init_args", arguments, _parameters(plugins.BUILTINS[kind][name]))
    if kind == "tasks" and isinstance(arguments, dict):
        _class(where, f"{key}.init_args.loss", arguments.get("loss"), LOSS, open_names)
    if kind == "tasks" and isinstance(arguments, dict) and isinstance(arguments.get("model"), dict):
        model = arguments["model"]
        _known(where, f"{key}.init_args.model", model, _fields("xt.models.factory:ModelConfig"))
        for part, part_kind in PARTS.items():
            _class(where, f"{key}.init_args.model.{part}", model.get(part), part_kind, open_names)


def _class_name(where: str, name: str, kind: str, open_names: bool) -> None:
    if "." not in name and not open_names and name not in plugins.names(kind):
        raise ConfigError(f"{where} {name!r} is unknown{nearest(name, plugins.names(kind))}")


def _override(path: list[str], given: str, values: dict[str, Any], open_names: bool) -> None:
    shown = "--" + ".".join(path)
    keys = [key for key in path if key != "init_args"]
    allowed: tuple[str, ...] = (*TOP, "fresh", "config", "print_config")
    kinds = {"model": "tasks", "data": "data_modules"}
    value: Any = values
    for depth, key in enumerate(keys):
        if key not in allowed and key not in CLASS:
            raise ConfigError(f"{shown}: unknown key {key!r}{nearest(key, allowed)}")
        value = value.get(key) if isinstance(value, dict) else None
        kind = kinds.get(key) if depth == 0 else PARTS.get(key) if depth == 2 else None
        if keys[: depth + 1] == ["model", "loss"]:
            kind = LOSS
        if kind is not None and keys[depth + 1 :] in ([], ["class_path"]) and given.isidentifier():
            _class_name(shown, given, kind, open_names)
        if key == "trainer":
            allowed = _trainer_keys()
        elif kind is not None and isinstance(value, dict) and value.get("class_path") in plugins.BUILTINS[kind]:
            allowed = _parameters(plugins.BUILTINS[kind][value["class_path"]])
            value = value.get("init_args")
        elif depth == 1 and keys[0] == "model" and key == "model":
            allowed = _fields("xt.models.factory:ModelConfig")
        else:
            return


def _known(where: str, key: str, value: Any, allowed: tuple[str, ...]) -> None:
    for each in value if isinstance(value, dict) else ():
        if each not in allowed:
            full = f"{key}.{each}" if key else str(each)
            raise ConfigError(f"{where}: unknown key {full!r}{nearest(str(each), allowed)}")


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
