"""Locks on outputs: two runs must not write one file or folder at once."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xt.errors import OutputError


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an output. The lock of a process that is gone is taken over.

    Args:
        path: File or folder; the lock stands beside it under a hidden name.

    Raises:
        OutputError: If a living process holds it; names the process.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        holder = lock.read_text(encoding="utf-8").split()
        if len(holder) == 2 and (holder[1] != socket.gethostname() or _alive(int(holder[0]))):
            raise OutputError(f"{path} is being written by process {holder[0]} on {holder[1]}; wait for it") from None
        lock.unlink(missing_ok=True)
        handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    try:
        os.write(handle, f"{os.getpid()} {socket.gethostname()}".encode())
        os.close(handle)
        yield
    finally:
        lock.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
