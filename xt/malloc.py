"""Memory of a CPU: pages that are cheap to clear, and large blocks that go back to the system when they are freed."""

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_BYTES = 2 << 20  # a huge page
LARGE_IMAGE = 2048
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"


def use_huge_pages() -> None:
    """Let PyTorch ask Linux for huge pages under its larger tensors (2 MiB), unless the environment says otherwise.

    glibc gives large blocks back whenever a tensor is freed, and the kernel clears them anew, which costs a quarter as
    much so. PyTorch reads the variable once, when it makes its first tensor.
    """
    os.environ.setdefault(HUGE_PAGES, "1")


def return_free_memory() -> None:
    """Give back to the system what is free now; a heap that two kinds of work use by turns keeps the peak of both."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def return_large_blocks(image_size: int) -> None:
    """Fix glibc's thresholds at the size of a huge page if images are large.

    By default they grow to 32 MiB, and streaming, which frees and allocates activations region after region, then
    fragments the heap: a step takes a third of a gibibyte more (``scripts/step_memory.py`` measures it). Fresh pages
    cost 5 to 15 % of the time of a step, so smaller images keep the default.

    Args:
        image_size: Side of a training image in pixels.
    """
    if sys.platform != "linux" or image_size < LARGE_IMAGE:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _BYTES)
        mallopt(_TRIM_THRESHOLD, _BYTES)
