"""Which files a prediction writes, and whether it may: found out before the model loads."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xt.data.address import image_path, is_utf8, shown
from xt.data.geotiff import state_of
from xt.errors import InputError, OutputError
from xt.inference.journal import difference

if TYPE_CHECKING:
    from xt.tasks.base import Task


REPORT = ".report.json"
"""Suffix of what says how a prediction went."""


def output_files(out: Path, task: "Task") -> list[Path]:
    """Return what a prediction of a task writes, in the order of publication: the GeoTIFF ``out`` comes last."""
    return [*(out.with_suffix(suffix) for suffix in (*task.files, REPORT)), out]


def read_report(out: Path) -> dict[str, Any] | None:
    """Return the report of a result that is there and whose input has not changed since, or None."""
    report = _report(out)
    return report if report is not None and out.name in report["files"] and not _changed(report) else None


def may_be_done(out: Path, image: Path) -> bool:
    """Whether a result is there that was made of this image as it is now, with whatever model and options."""
    report = read_report(out)
    return report is not None and report["result"]["image"] == shown(image)


def made_otherwise(out: Path, image: Path, facts: Mapping[str, Any] | None = None) -> str:
    """Say in what a result that is there differs from one that is asked for, for :func:`check_outputs`.

    Args:
        out: GeoTIFF of both.
        image: Of which one is asked for.
        facts: Of what is asked for, if they are known.

    Returns:
        Such as ``", made with another tta (…)"``; empty if it is not known to be a result, or in nothing.
    """
    report = _report(out)
    if report is None:
        return ""
    if out.name not in report["files"]:
        return f", part of the result {report['files'][-1]}"
    if report["result"]["image"] != shown(image):
        return f", made of {report['result']['image']}"
    if changed := _changed(report):
        return f", made before {changed} changed"
    other = difference(report, facts or {})
    return f", made with another {other}" if other else ""


def refuse_inputs(outs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse outputs that are an input, by whatever name or link; ``--overwrite`` does not help.

    Args:
        outs: All files to write.
        inputs: Files, and folders with files.

    Raises:
        OutputError: If one would replace the other.
    """
    known: dict[Path | tuple[int, int], Path] = {}
    for given in inputs:
        for path in [given, *_members(given)]:
            known |= dict.fromkeys(_identities(path), path)
    for path in outs:
        for identity in _identities(path):
            if identity in known:
                raise OutputError(f"{path} would replace the input {known[identity]}; choose another output")


def check_outputs(
    files: Sequence[Path], overwrite: bool, needed: int = 0, made: str = "", option: str = "--overwrite"
) -> None:
    """Find out whether files can be written into one folder.

    Args:
        files: Final names.
        overwrite: They may exist.
        needed: Bytes.
        made: What is known of files that exist (:func:`made_otherwise`).
        option: By which ``overwrite`` is said.

    Raises:
        OutputError: If one exists, is a folder or has a name that GDAL does not take, if the folder is missing or not
            writable, or the disk is too full.
    """
    for path in files:
        if not is_utf8(path):
            name = shown(path)
            raise OutputError(f"{name}: the name is not UTF-8, which GDAL does not take; choose another output")
        if path.is_dir():
            raise OutputError(f"{path} is a folder; choose another output")
        if os.path.lexists(path) and not overwrite:
            raise OutputError(f"{path} exists{made}; {option} replaces it")
        check_folder(path.parent)
    free = shutil.disk_usage(files[-1].parent).free
    if free < needed:
        raise OutputError(f"{files[-1]} needs up to {needed >> 20} MiB, {free >> 20} MiB are free; free space first")


def free_bytes(path: Path) -> int:
    """Bytes that are free where a file will be, whose folder need not exist yet."""
    folder = next(each for each in path.absolute().parents if each.is_dir())
    return shutil.disk_usage(folder).free


def check_folder(folder: Path) -> None:
    """Find out whether files can be made in a folder.

    Raises:
        OutputError: If it is missing, a file, or not writable.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; choose a folder")
    if not folder.is_dir():
        raise OutputError(f"there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"no right to write in {folder}; choose another folder")


@contextmanager
def folder_for_outputs(folder: Path, parents: bool = False) -> Iterator[None]:
    """Make a folder if it is missing, and take it away again if nothing came into it.

    Args:
        folder: To make.
        parents: Treat the folders that it lies in likewise.

    Raises:
        OutputError: If it cannot be made.
    """
    missing = [each for each in (folder, *(folder.parents if parents else ())) if not each.exists()]
    try:
        for each in reversed(missing):
            each.mkdir()
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error.strerror}; choose another folder") from error
    try:
        yield
    finally:
        with suppress(OSError):
            for each in missing:
                each.rmdir()


def _report(out: Path) -> dict[str, Any] | None:
    """The report beside an output, if all files that it names are there: of this result, or of one with its stem."""
    try:
        report: dict[str, Any] = json.loads(out.with_suffix(REPORT).read_text(encoding="utf-8"))
        there = all(out.with_name(name).exists() for name in report["files"])
        known = isinstance(report["input"], list) and "image" in report["result"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return report if there and known else None


def _changed(report: Mapping[str, Any]) -> str | None:
    """Name of the first input that is no longer what it was, or None."""
    for path, *state in report["input"]:
        try:
            if list(state_of(image_path(path))) != state:
                return str(path)
        except (OSError, InputError):
            return str(path)
    return None


def _members(path: Path) -> list[Path]:
    with suppress(OSError):  # a file, or a folder that reading it will complain about
        return list(path.iterdir())
    return []


def _identities(path: Path) -> list[Path | tuple[int, int]]:
    """What two names of one file share: the resolved path, and device and inode."""
    found: list[Path | tuple[int, int]] = [Path(os.path.realpath(path))]
    with suppress(OSError):
        status = path.stat()
        found.append((status.st_dev, status.st_ino))
    return found
