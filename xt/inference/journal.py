"""What a prediction has done so far, kept beside its output until that is complete.

A job folder ``.NAME.job`` holds ``journal.jsonl`` and the files that it names. The first line says what is predicted
and how; each later one is what a commit found complete, with checksums. A kill can only tear the last line, which then
does not count.
"""

import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xt.errors import InputError, OutputError
from xt.files import explained

FILE = "journal.jsonl"


@contextmanager
def job(out: Path, facts: Mapping[str, Any], restart: bool = False) -> Iterator["Journal"]:
    """Work on an output whose lock is held; what is committed outlives a kill or a stop, and nothing a success.

    Where the work fails for good, since the input or the disk is at fault, nothing of it is kept either.

    Args:
        out: The output.
        facts: As :class:`Journal`.
        restart: Remove what an earlier run left.

    Raises:
        OutputError: As :class:`Journal`.
    """
    journal = Journal(_folder(out), facts, restart)
    try:
        yield journal
    except (InputError, OutputError):
        journal.clear()
        raise
    except BaseException:
        if journal.last is None:
            journal.clear()
        raise
    journal.clear()


def is_publishing(out: Path) -> bool:
    """Whether a run was killed while its files got their names, so that those that have theirs are its own."""
    entries, _ = _read(_folder(out) / FILE)
    return bool(entries) and bool(entries[-1].get("publishing"))


def remove_job(out: Path) -> None:
    """Remove what a job has left of an output whose lock is held."""
    shutil.rmtree(_folder(out), ignore_errors=True)


class Journal:
    """The journal of one output; whoever opens it holds the output's lock.

    Args:
        folder: Of the job.
        facts: What a job must have in common with an earlier one to go on with it; names and plain values.
        restart: Remove what an earlier run left.

    Attributes:
        last: What the last commit said, of this run or of one that it goes on with; or None.

    Raises:
        OutputError: If an earlier run differs in a fact (names it), or the folder cannot be made.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], restart: bool = False) -> None:
        self.folder, self.path = folder, folder / FILE
        self.last: dict[str, Any] | None = None
        if restart:
            self.clear()
        lines, size = _read(self.path)
        if lines:
            self._compare(lines[0], json.loads(json.dumps(facts)))
            self.last = lines[-1] if len(lines) > 1 else None
        if self.last is None:
            self.clear()
            try:
                with explained(folder):
                    folder.mkdir()
                    self._append(facts)
            except OutputError:
                self.clear()
                raise
        else:
            with explained(folder):
                os.truncate(self.path, size)

    def commit(self, entry: Mapping[str, Any]) -> None:
        """Say that everything up to here is complete.

        Raises:
            OutputError: If it cannot be written.
        """
        with explained(self.folder):
            self._append(entry)
        self.last = dict(entry)

    def subfolder(self, name: str) -> Path:
        """Return a folder of the job, made if it is missing."""
        with explained(self.folder):
            (self.folder / name).mkdir(exist_ok=True)
        return self.folder / name

    def clear(self) -> None:
        """Remove the job folder, the journal first: what is left of a killed removal is no job."""
        self.path.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _append(self, entry: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(entry))
            file.flush()
            os.fsync(file.fileno())

    def _compare(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                raise OutputError(
                    f"{self.folder} was begun with another {key} ({_short(old.get(key))}, now {_short(new.get(key))}); "
                    "go on as it was begun, or start anew with --restart"
                )


def _folder(out: Path) -> Path:
    return out.with_name(f".{out.name}.job")


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Entries up to the first line that is torn or damaged, and the bytes that they take."""
    found: list[dict[str, Any]] = []
    size = 0
    try:
        data = path.read_bytes()
    except OSError:
        return found, size
    for line in data.splitlines(keepends=True):
        crc, _, body = line.decode(errors="replace").partition(" ")
        if not body.endswith("\n") or crc != _crc(body.removesuffix("\n")):
            break
        found.append(json.loads(body))
        size += len(line)
    return found, size


def _line(entry: Mapping[str, Any]) -> str:
    body = json.dumps(entry, separators=(",", ":"))
    return f"{_crc(body)} {body}\n"


def _crc(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
