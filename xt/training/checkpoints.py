"""The two checkpoints of a run and their digests: a kill at any instant leaves a whole one."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from xt.errors import CheckpointError
from xt.files import remove_partials, replacing
from xt.models.checkpoint import file_sha256

FOLDER, LAST, PREVIOUS = "checkpoints", "last.ckpt", "previous.ckpt"
OWN = "own_checkpoints"
"""Folder of those that a ``ModelCheckpoint`` in ``trainer.callbacks`` writes, if it has no ``dirpath``."""


def save_checkpoint(run: Path, write: Callable[[Path], None]) -> None:
    """Save the state of a run.

    While the digest of one checkpoint is written the other one is whole: first ``previous`` becomes a second name of
    ``last``, then ``last`` is replaced. A damaged ``last`` does not become ``previous``.

    Args:
        run: The run folder.
        write: Writes the state to a path.

    Raises:
        OutputError: If it cannot be written.
    """
    last, previous = run / FOLDER / LAST, run / FOLDER / PREVIOUS
    with replacing(last) as partial:
        write(partial)
        digest = file_sha256(partial)
        if _whole(last):
            _write_digest(previous, _read_digest(last))
            with replacing(previous) as link:
                _link(last, link)
        _write_digest(last, digest)


def find_checkpoint(run: Path) -> tuple[Path | None, str]:
    """Return the newest checkpoint of a run that is whole, if the run has any, and a line about it.

    Raises:
        CheckpointError: If it has checkpoints and none is whole.
    """
    last, previous = run / FOLDER / LAST, run / FOLDER / PREVIOUS
    if _whole(last):
        return last, f"going on from {last}"
    if _whole(previous):
        return previous, f"going on from {previous} ({LAST} is {'damaged' if last.exists() else 'missing'})"
    if last.exists() or previous.exists():
        raise CheckpointError(
            f"{run / FOLDER}: no checkpoint is whole (SHA-256); copy one back, choose another --run_dir, or "
            "remove this run and train anew with --fresh"
        )
    return None, "no checkpoint yet: starting anew"


def clean(run: Path) -> None:
    """Remove what a killed run left half-written; only for the one that holds the run."""
    if (run / FOLDER).is_dir():
        for name in (LAST, PREVIOUS):
            remove_partials(run / FOLDER / name)
            remove_partials(_sidecar(run / FOLDER / name))


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _whole(path: Path) -> bool:
    return path.exists() and _sidecar(path).exists() and file_sha256(path) == _read_digest(path)


def _read_digest(path: Path) -> str:
    return _sidecar(path).read_text(encoding="utf-8", errors="replace").partition(" ")[0].strip()


def _write_digest(path: Path, digest: str) -> None:
    with replacing(_sidecar(path)) as partial:
        partial.write_text(f"{digest}  {path.name}\n", encoding="utf-8")  # the form of sha256sum


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a drive without hard links
        shutil.copyfile(source, target)
