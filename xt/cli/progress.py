"""How far a command is: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable

SECONDS = 10.0
"""Between two plain lines."""


def progress(label: str, unit: str) -> Callable[[int, int], None]:
    """Make a function that is told ``(done, total)`` and shows it on stderr.

    Args:
        label: What is done, such as a file's name.
        unit: What is counted.
    """
    if sys.stderr.isatty():
        return _bar(label, unit)
    last = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SECONDS:
            last = now
            print(f"{label}: {done} of {total} {unit}s", file=sys.stderr, flush=True)

    return line


def _bar(label: str, unit: str) -> Callable[[int, int], None]:
    from tqdm import tqdm

    bar = tqdm(desc=label, unit=unit)

    def show(done: int, total: int) -> None:
        nonlocal bar
        if done < bar.n:  # the work goes over the whole once more
            bar.close()
            bar = tqdm(desc=label, unit=unit)
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return show
