"""Reads a config: safe YAML in which no key stands twice. Imports no torch."""

from pathlib import Path
from typing import Any

import yaml

from xt.errors import ConfigError, nearest

_HINTS = {
    "could not find expected ':'": "write KEY: VALUE, with a space after the colon",
    "found character '\\t'": "indent with spaces, not tabs",
    "mapping values are not allowed here": "one KEY: VALUE on a line, all keys of a level equally indented",
    "expected <block end>": "all keys of a level must be equally indented",
    "could not determine a constructor": "tags such as !!python are refused",
}


def load(path: Path) -> dict[str, Any]:
    """Read a config.

    Raises:
        ConfigError: If it is missing (the nearest name is given), is no YAML (the line is given), or holds no keys.
    """
    if path.is_dir():
        found = sorted(each.name for each in path.glob("*.yaml"))
        raise ConfigError(f"{path} is a folder; give a config in it" + (f": {', '.join(found[:5])}" if found else ""))
    if not path.is_file():
        raise ConfigError(f"{path}: no such config{_near(path)}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Strict)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_explain(path, error)) from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold keys and values (model:, data:, trainer:); see configs/")
    return values


def _near(path: Path) -> str:
    folders = dict.fromkeys([path.parent, Path("configs")])
    names = [str(each) for folder in folders if folder.is_dir() for each in sorted(folder.glob("*.yaml"))]
    return nearest(str(path), names) or "; configs are YAML files, such as those in configs/"


def _explain(path: Path, error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "is no YAML"
    # The place of a missing colon is where the key began; that of the problem is already the next line.
    mark = error.context_mark if "expected ':'" in problem else error.problem_mark
    hint = next((text for start, text in _HINTS.items() if start in problem), None)
    return f"{path}{f' line {mark.line + 1}' if mark else ''}: {problem}" + (f"; {hint}" if hint else "")


class _Strict(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":  # <<: *anchor, whose keys those that are written go before
                continue
            name = self.construct_object(key, deep=True)
            if isinstance(name, str) and name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {name!r} stands twice; keep one", key.start_mark
                )
            seen.add(str(name))
        return super().construct_mapping(node, deep)
