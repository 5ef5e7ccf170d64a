"""Checkpoints and their digests against a kill at every file operation."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from xt.errors import CheckpointError
from xt.training.checkpoints import find_checkpoint, save_checkpoint

OPERATIONS = ["replace", "link", "fsync", "chmod", "open", "unlink", "close"]


class Killed(BaseException):
    """The process is gone: this operation and all later ones do not happen."""


def kill_at(number: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    done: list[str] = []

    def dying(name: str, plain: Callable) -> Callable:
        def operation(*args: object, **kwargs: object) -> object:
            if len(done) >= number:
                raise Killed
            done.append(name)
            return plain(*args, **kwargs)

        return operation

    for name in OPERATIONS:
        monkeypatch.setattr(os, name, dying(name, getattr(os, name)))
    for name in ("write_text", "unlink", "write_bytes"):
        monkeypatch.setattr(Path, name, dying(f"Path.{name}", getattr(Path, name)))
    return done


def save(run: Path, content: bytes) -> None:
    save_checkpoint(run, lambda path: path.write_bytes(content))


def content(run: Path) -> bytes | None:
    path, _ = find_checkpoint(run)
    return path.read_bytes() if path else None


@pytest.mark.parametrize("damage", [None, "last.ckpt"])
def test_kill_at_every_operation_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str | None
):
    seen: list[bytes | None] = []
    for number in range(200):
        run = tmp_path / str(number)
        for old in (b"one", b"two"):
            save(run, old)
        if damage:
            (run / "checkpoints" / damage).write_bytes(b"spoilt")
        with monkeypatch.context() as patch:
            done = kill_at(number, patch)
            try:
                save(run, b"three")
                break
            except Killed:
                pass
        seen.append(content(run))
        save(run, b"four")  # the resumed run, from whatever was left
        assert content(run) == b"four"
        assert find_checkpoint(run)[0] == run / "checkpoints" / "last.ckpt"
    assert {"replace", "fsync", "Path.write_text"} <= set(done)
    assert len(seen) > 10
    before = b"one" if damage else b"two"
    assert set(seen) <= {before, b"three"}
    assert seen == sorted(seen, key=[before, b"three"].index)  # never back to the older one


def test_both_digests_can_be_checked_with_sha256sum(tmp_path: Path):
    save(tmp_path, b"one")
    save(tmp_path, b"two")
    folder = tmp_path / "checkpoints"
    assert {p.name for p in folder.iterdir()} == {
        "last.ckpt", "last.ckpt.sha256", "previous.ckpt", "previous.ckpt.sha256",
    }  # fmt: skip
    assert (folder / "previous.ckpt").read_bytes() == b"one"
    digest, name = (folder / "previous.ckpt.sha256").read_text().split()
    assert len(digest) == 64
    assert name == "previous.ckpt"


def test_no_whole_checkpoint_is_an_error_that_says_what_to_do(tmp_path: Path):
    assert find_checkpoint(tmp_path)[0] is None
    save(tmp_path, b"one")
    (tmp_path / "checkpoints" / "last.ckpt.sha256").unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint is whole.*--fresh"):
        find_checkpoint(tmp_path)
