"""Open rasters that are kept between windows, apart for each process and thread, and not more than a few.

Rasterio's handles give wrong pixels silently when threads or forked processes share one; so each thread has its own,
and a forked process begins with none.
"""

import atexit
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from xt.data.address import is_virtual
from xt.errors import InputError

LIMIT = 32
"""Handles that a thread keeps open; the one that was unused longest is closed first."""
Opener = Callable[[ExitStack], Any]


class _Kept(threading.local):
    def __init__(self) -> None:
        self.open: OrderedDict[Hashable, tuple[Any, ExitStack]] = OrderedDict()


_kept = _Kept()
_abandoned: list[_Kept] = []


def borrow(path: Path, kind: Hashable, opener: Opener) -> Any:
    """Return an open dataset of this process and thread; it is to be used before another one is borrowed.

    Args:
        path: The file; when it has changed, it is opened anew.
        kind: What tells apart several ways to open it.
        opener: Opens it, and has the stack close it (:func:`keep`).

    Raises:
        InputError: If there is no such file.
    """
    try:
        state = None if is_virtual(path) else path.stat()
    except OSError as error:
        raise InputError(
            f"{path}: {(error.strerror or 'cannot be read').lower().replace(' or directory', '')}"
        ) from error
    known = () if state is None else (state.st_ino, state.st_size, state.st_mtime_ns)
    key = (path, known, kind)
    if key not in _kept.open:
        with ExitStack() as stack:
            dataset = opener(stack)
            _kept.open[key] = dataset, stack.pop_all()
        while len(_kept.open) > LIMIT:
            _kept.open.popitem(last=False)[1][1].close()
    _kept.open.move_to_end(key)
    return _kept.open[key][0]


def keep(stack: ExitStack, dataset: Any) -> Any:
    """Have a stack close a dataset, and return it.

    It is not entered as a context: rasterio's contexts hold what GDAL was told, and must end in turn.
    """
    stack.callback(dataset.close)
    return dataset


def close(paths: set[Path] | None = None) -> None:
    """Close what this thread keeps open of some files, or of all."""
    for key in [key for key in _kept.open if paths is None or key[0] in paths]:  # type: ignore[index]
        _kept.open.pop(key)[1].close()


def num_open() -> int:
    """Count the handles of this thread."""
    return len(_kept.open)


def _begin_with_none() -> None:
    # The parent's handles share its file positions; they are neither used nor closed here.
    global _kept
    _abandoned.append(_kept)
    _kept = _Kept()


os.register_at_fork(after_in_child=_begin_with_none)
atexit.register(close)
