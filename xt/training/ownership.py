"""Tells a run folder of ours from any other folder: only what a run wrote is ever removed."""

import os
import re
from pathlib import Path

import yaml

from xt import plugins
from xt.errors import OutputError

_FILES = "config.yaml|metrics.csv|done|(validation|test).json|(last|previous).ckpt(.sha256)?".replace(".", r"\.")
_SAMPLE = r"\d_[A-Za-z0-9._-]+\.png"
_MODEL = r"/((model|training)\.safetensors|config\.json)"
_TREE = re.compile(
    rf"config\.yaml|metrics\.csv|done|(validation|test)\.json|checkpoints(/(last|previous)\.ckpt(\.sha256)?)?|(\.model\.previous|model)({_MODEL})?"
    r"|tensorboard(/(events\.out\.tfevents\.[^/]+|hparams\.yaml))?"
    r"|own_checkpoints(/[^/]+\.ckpt)?"
    rf"|samples(/({_SAMPLE}|\.{_SAMPLE}\.[0-9a-f]+\.partial(\.png)?))?"
    rf"|(checkpoints/)?\.({_FILES})\.[0-9a-f]+\.partial(\.\w+)?|\.model\.[0-9a-f]+\.partial({_MODEL})?"
)
"""Every path that a run writes, half-written ones included."""
_PARTIAL = re.compile(r"\.config\.yaml\.[0-9a-f]+\.partial\.yaml")


def check_own(folder: Path, clear: bool, keep: list[Path]) -> None:
    """Check that a folder may become, go on as, or be cleared as a run folder.

    Args:
        folder: Of the run; need not exist.
        clear: Whether all that it holds will be removed.
        keep: Files and folders of the user that must not lie in a folder that is cleared.

    Raises:
        OutputError: If it is no run, or, to be cleared, holds or may hold anything else; names it.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise OutputError(f"--run_dir {folder} is no folder; choose another")
    # A kill while the first file was written leaves a partial of it.
    entries = sorted(each.name for each in folder.iterdir() if not _PARTIAL.fullmatch(each.name))
    if entries and not _is_run(folder):
        raise OutputError(
            f"--run_dir {folder} holds {entries[0]} and is no run (no config.yaml of xt train); choose another"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"--run_dir {folder} cannot be written; check its rights or choose another")
    if clear:
        _check_clearable(folder, keep)


def clear(folder: Path) -> None:
    """Remove what a run wrote, ``config.yaml`` last, so that the rest of a killed removal is still known as a run.

    Raises:
        OutputError: If anything cannot be removed.
    """
    marker = folder / "config.yaml"
    try:
        for path in sorted(_walk(folder), reverse=True):
            if path != marker:
                path.rmdir() if path.is_dir() else path.unlink()
        marker.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{error.filename} cannot be removed: {error.strerror}; remove {folder} yourself") from error


def _check_clearable(folder: Path, keep: list[Path]) -> None:
    refusal = f"--fresh would remove {folder}, which"
    if folder.is_symlink():
        raise OutputError(f"{refusal} is a link; give the folder itself: {folder.resolve()}")
    for path in [Path.home(), Path.cwd(), *keep]:
        if path.resolve().is_relative_to(folder.resolve()):
            raise OutputError(f"{refusal} is or holds {path}; choose another --run_dir")
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not _TREE.fullmatch(name):
            raise OutputError(f"{refusal} holds {name}, and no run wrote that; move it elsewhere")


def _walk(folder: Path) -> list[Path]:
    """Everything below a folder; links are listed, not followed."""
    return [Path(top) / name for top, folders, files in os.walk(folder) for name in (*folders, *files)]


def _is_run(folder: Path) -> bool:
    config = folder / "config.yaml"
    if config.is_symlink() or not config.is_file():
        return False
    try:
        values = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError):
        return False
    model = values.get("model") if isinstance(values, dict) else None
    task = model.get("task") if isinstance(model, dict) else None
    return isinstance(task, dict) and task.get("class_path") in _tasks()


def _tasks() -> set[str]:
    classes = plugins.working("tasks")
    return {*classes, *(f"{cls.__module__}.{cls.__qualname__}" for cls in classes.values())}
