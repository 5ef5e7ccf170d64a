"""The only place that renames and locks: a final name appears when its content is complete, and one run writes it.

Partial files and folders stand beside the final name under a hidden, unique one: ``.NAME.TOKEN.partial.SUFFIX``.
"""

import errno
import fcntl
import functools
import os
import re
import secrets
import shutil
import socket
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from xt.errors import OutputError, XTWarning

_TOKEN_BYTES = 8
_NO_LOCKS = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file; :func:`replacing_all` for one."""
    with replacing_all([path]) as (partial,):
        yield partial


@contextmanager
def replacing_all(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Write files that belong together; all get their names when all are complete, in the order given.

    A kill between two renames leaves earlier names new and later ones old, so the file that matters comes last.

    Args:
        paths: Final names; missing folders are made.

    Yields:
        For each a path of the same suffix that does not exist yet, to be written and closed inside the block.

    Raises:
        OutputError: If they cannot be written; what stood there before is as it was.
    """
    partials = [_partial(path) for path in paths]
    try:
        with explained(paths[-1]):
            modes = [_new_file_mode(partial) for partial in partials]
            yield partials
            for partial, mode in zip(partials, modes, strict=True):
                _settle(partial, mode)
            _publish(paths, partials)
    finally:
        for partial in partials:
            _remove(partial)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Write a folder, through a link if ``path`` is one. A kill leaves the old one, if need be under :func:`previous`.

    Args:
        path: Final name; missing folders above it are made.

    Yields:
        An empty folder, to be filled inside the block.

    Raises:
        OutputError: If it cannot be written, or if the old folder holds what the new one does not; the old one stays.
    """
    path = Path(os.path.realpath(path))
    partial, aside = _partial(path), previous(path)
    try:
        with explained(path):
            partial.mkdir(parents=True)
            yield partial
            mode = stat.S_IMODE(partial.stat().st_mode) & 0o666
            for each in partial.rglob("*"):
                if each.is_file():
                    _settle(each, mode)
            if not path.exists():
                os.replace(partial, path)
            else:
                _keep_foreign(path, partial)
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(path, aside)
                try:
                    os.replace(partial, path)
                except BaseException:
                    os.replace(aside, path)
                    raise
            shutil.rmtree(aside, ignore_errors=True)
    finally:
        _remove(partial)


def previous(folder: Path) -> Path:
    """Where a kill between two renames leaves the old folder."""
    folder = Path(os.path.realpath(folder))
    return folder.with_name(f".{folder.name}.previous")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an output against other processes; the kernel lets go when the holder dies, however it dies.

    Partials that killed runs left of ``path`` are removed. A drive that knows no locks is warned of, once.

    Args:
        path: File or folder that need not exist; the lock file stands beside it under a hidden name.

    Raises:
        OutputError: If another run holds it; names its process and host.
    """
    path = Path(os.path.abspath(path))
    lock = path.with_name(f".{path.name}.lock")
    with explained(path):
        handle = _acquire(lock, path)
    if handle is None:
        yield
        return
    try:
        remove_partials(path)
        yield
    finally:
        lock.unlink(missing_ok=True)  # before the lock goes: who opened it meanwhile sees that the name is gone
        os.close(handle)


def remove_partials(path: Path) -> None:
    """Remove what killed runs left of an output; only for the one that holds its lock."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{{2 * _TOKEN_BYTES}}}\.partial")
    with suppress(FileNotFoundError), os.scandir(path.parent) as entries:
        for stale in [entry.name for entry in entries if name.match(entry.name)]:
            _remove(path.with_name(stale))


def _acquire(lock: Path, path: Path) -> int | None:
    """Return the handle that holds the lock, or None where locks are unknown."""
    while True:
        handle = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_open_at(handle, lock):
                os.truncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return handle
            os.close(handle)
        except BlockingIOError:
            holder = os.pread(handle, 500, 0).decode(errors="replace") or "another process"
            os.close(handle)
            raise OutputError(f"{path} is being written by {holder}; wait for it or choose another output") from None
        except OSError as error:
            os.close(handle)
            if error.errno not in _NO_LOCKS:
                raise
            lock.unlink(missing_ok=True)
            text = f"{path.parent} is on a drive without locks: do not write {path.name} twice"
            warnings.warn(text, XTWarning, stacklevel=4)
            return None


def _is_open_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(_TOKEN_BYTES)}.partial{path.suffix}")


def _new_file_mode(partial: Path) -> int:
    """Find out by a trial what mode umask and folder give to a new file; libraries choose others."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return stat.S_IMODE(os.fstat(handle).st_mode)
    finally:
        os.close(handle)
        partial.unlink()


def _settle(path: Path, mode: int) -> None:
    os.chmod(path, mode)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _publish(paths: Sequence[Path], partials: Sequence[Path]) -> None:
    """Rename all, or on failure none."""
    undo: list[Callable[[], None]] = []
    spare = [_partial(path) for path in paths]
    try:
        for path, partial, old in zip(paths, partials, spare, strict=True):
            if path == paths[-1]:
                pass  # nothing comes after it
            elif os.path.lexists(path):
                shutil.copy2(path, old, follow_symlinks=False)
                undo.append(functools.partial(os.replace, old, path))
            else:
                undo.append(path.unlink)
            os.replace(partial, path)
    except BaseException:
        for step in reversed(undo):
            with suppress(FileNotFoundError):
                step()
        raise
    finally:
        for old in spare:
            _remove(old)


def _keep_foreign(old: Path, new: Path) -> None:
    foreign = sorted({each.name for each in old.iterdir()} - {each.name for each in new.iterdir()})
    if foreign:
        raise OutputError(f"{old} cannot be replaced: it holds {foreign[0]}, which is not its own; move that elsewhere")


def _remove(partial: Path) -> None:
    """Remove a partial, and what a driver wrote beside it (journals, ``.aux.xml``)."""
    if partial.is_dir() and not partial.is_symlink():
        shutil.rmtree(partial, ignore_errors=True)
        return
    with suppress(OSError), os.scandir(partial.parent) as entries:
        for name in [entry.name for entry in entries if entry.name.startswith(partial.name)]:
            partial.with_name(name).unlink()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the system says of a file into an error of ours.

    Raises:
        OutputError: If anything in the block cannot be written.
    """
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename and Path(error.filename).parent != path.parent else ""
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}{where}; "
            f"free space or check the rights in {path.parent}, what stood there is kept"
        ) from error
