"""What a prediction has done so far, kept beside its output until that is complete.

A job folder ``.NAME.job`` holds ``journal.jsonl`` and the files that it names. The first line says what is predicted
and how; each later one is what a commit found complete, with checksums. A kill can only tear the last line, which then
does not count.
"""

import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xt.errors import InputError, OutputError, ReadError
from xt.files import explained, replacing

FILE = "journal.jsonl"
FREED = {"on_bad_tile": ("fail", "nodata")}
"""Facts that may become another from one run to the next: what was done before holds under the second too."""


@contextmanager
def job(folder: Path, facts: Mapping[str, Any], restart: bool = False, keep: bool = False) -> Iterator["Journal"]:
    """Work on an output whose lock is held; what is committed outlives a kill or a stop, and nothing a success.

    Where the input is at fault nothing of it is kept either. A full disk can be made room on, and pixels may be read
    another time or be left out, so there it is.

    Args:
        folder: Of the job (:func:`job_folder`).
        facts: As :class:`Journal`.
        restart: Remove what an earlier run left.
        keep: Leave the folder after a success: it holds a share of the work.

    Raises:
        OutputError: As :class:`Journal`; one of the work says that the command goes on.
    """
    journal = Journal(folder, facts, restart)
    try:
        yield journal
    except (OutputError, ReadError) as error:
        if not journal.outlives_failure():
            raise
        how = "the same command" + (", or with --on-bad-tile nodata," if isinstance(error, ReadError) else "")
        raise type(error)(f"{error}; {how} goes on from what is done, in {folder}") from error
    except InputError:
        journal.clear()
        raise
    except BaseException:
        if journal.last is None:
            journal.clear()
        raise
    if not keep:
        journal.clear()


def is_publishing(out: Path) -> bool:
    """Whether a run was killed while its files got their names, so that those that have theirs are its own."""
    found = entries(job_folder(out))
    return bool(found) and bool(found[-1].get("publishing"))


def remove_job(folder: Path) -> None:
    """Remove a job whose lock is held, the journal first: what is left of a killed removal is no job."""
    (folder / FILE).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


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
        freed = _freed(lines[0], facts) if lines else {}
        if lines:
            lines[0] |= freed
            other = difference(lines[0], dict.fromkeys(lines[0]) | dict(facts))
            if other is not None:
                raise OutputError(
                    f"{folder} was begun with another {other}; go on as it was begun, or start anew with --restart"
                )
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
                if freed:
                    with replacing(self.path) as partial:
                        partial.write_text("".join(map(_line, lines)), encoding="utf-8")

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
        """Remove the job folder."""
        remove_job(self.folder)

    def outlives_failure(self) -> bool:
        """Whether something is done that is worth keeping, no name being given any more; if not, the folder is gone."""
        done = {name: value for name, value in (self.last or {}).items() if name != "publishing"}
        if done and done != self.last:
            try:
                self.commit(done)
            except OutputError:
                done = {}
        if not done:
            self.clear()
        return bool(done)

    def _append(self, entry: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(entry))
            file.flush()
            os.fsync(file.fileno())


def job_folder(out: Path, share: tuple[int, int] = (1, 1)) -> Path:
    """Where the work on an output, or on a share of it, is kept."""
    number, shares = share
    return out.with_name(f".{out.name}.job" if shares == 1 else f".{out.name}.{number}-of-{shares}.job")


def shares_of(out: Path) -> dict[tuple[int, int], Path]:
    """Folders of the shares of an output that have been begun, by number and shares in all."""
    name = re.compile(rf"\.{re.escape(out.name)}\.(\d+)-of-(\d+)\.job")
    found = ((name.fullmatch(path.name), path) for path in out.parent.iterdir())
    return {(int(match[1]), int(match[2])): path for match, path in sorted(found, key=str) if match}


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """The first fact of ``new`` that was another one, with both values; None if there is none."""
    for key, value in sorted(json.loads(json.dumps(new)).items()):
        if old.get(key) != value:
            return f"{key} ({_short(old.get(key))}, now {_short(value)})"
    return None


def entries(folder: Path) -> list[dict[str, Any]]:
    """What the journal of a job says, the facts first; empty if there is none."""
    return _read(folder / FILE)[0]


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


def _freed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    return {key: after for key, (before, after) in FREED.items() if (old.get(key), new.get(key)) == (before, after)}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
