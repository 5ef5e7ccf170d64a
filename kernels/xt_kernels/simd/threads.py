"""Tasks of a kernel on the threads that PyTorch uses."""

import ctypes
import functools
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

_BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_PROCESS = os.getpid()


def run(kernel: Callable[..., None], tasks: int, worth: int, arguments: tuple[object, ...]) -> None:
    """Call ``kernel(task, *arguments)`` for all tasks, on at most ``worth`` threads.

    These are PyTorch's own where it uses GNU's OpenMP or one that speaks like it: between two operations they wait in a
    loop, for milliseconds, and threads beside them would have to share the cores with that.
    """
    threads = max(1, min(torch.get_num_threads(), tasks, worth))
    todo, errors = iter(range(tasks)), []
    turns = iter(range(threads))

    def work(_: object = None) -> None:
        try:
            if next(turns, None) is not None:
                for task in todo:
                    kernel(task, *arguments)
        except BaseException as error:  # nothing can pass through OpenMP
            errors.append(error)

    if threads == 1:
        work()
    elif parallel := _openmp() if os.getpid() == _PROCESS else None:
        parallel(_BODY(work), None, 0, 0)
    else:
        others = [_pool(os.getpid(), torch.get_num_threads() - 1).submit(work) for _ in range(threads - 1)]
        work()
        for each in others:
            each.result()
    if errors:
        raise errors[0]


@functools.cache
def _openmp() -> Callable[..., None] | None:
    """``GOMP_parallel(body, data, threads, flags)`` of the OpenMP that PyTorch has loaded; 0 threads are all of a team.

    Smaller teams than PyTorch's own would end threads, which its next operation starts again.
    """
    try:
        mapped = {Path(line.split(maxsplit=5)[-1]) for line in Path("/proc/self/maps").read_text().splitlines()}
    except OSError:  # not Linux
        return None
    loaded = {path for path in mapped if re.match(r"lib[gi]?omp.*\.so", path.name)}
    own = {path for path in loaded if path.is_relative_to(Path(torch.__file__).parent)} or loaded
    if not torch.backends.openmp.is_available() or len(own) != 1:
        return None
    parallel: Callable[..., None] | None = getattr(ctypes.CDLL(str(own.pop())), "GOMP_parallel", None)
    if parallel is not None:
        parallel.argtypes = (_BODY, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)  # type: ignore[attr-defined]
        parallel.restype = None  # type: ignore[attr-defined]
    return parallel


@functools.lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    # Threads do not come along into a forked process, so each has a pool of its own.
    return ThreadPoolExecutor(threads, thread_name_prefix="xt_kernels")
