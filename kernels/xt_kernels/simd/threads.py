"""Tasks of a kernel on as many threads as PyTorch uses."""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def run(kernel: Callable[..., None], tasks: int, worth: int, arguments: tuple[object, ...]) -> None:
    """Call ``kernel(task, *arguments)`` for all tasks, on at most ``worth`` threads."""
    most = torch.get_num_threads()
    threads = max(1, min(most, tasks, worth))
    todo = iter(range(tasks))

    def work() -> None:
        for task in todo:
            kernel(task, *arguments)

    others = [_pool(os.getpid(), most - 1).submit(work) for _ in range(threads - 1)]
    work()
    for each in others:
        each.result()


@functools.lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    # Threads do not come along into a forked process, so each has a pool of its own.
    return ThreadPoolExecutor(threads, thread_name_prefix="xt_kernels")
