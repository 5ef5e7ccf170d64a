"""How kernels for CPUs are compiled and kept."""

import hashlib
from pathlib import Path

from numba import njit

VERSION = hashlib.sha256(b"".join(each.read_bytes() for each in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()
"""Named by a kernel it is part of its key in Numba's cache, which by itself looks only at the kernel's file."""


def compiled(function):
    """Compile on first use, for other processes too where there is a folder to keep it in."""
    try:
        return njit(function, nogil=True, error_model="numpy", cache=True)
    except RuntimeError:  # no folder can be written
        return njit(function, nogil=True, error_model="numpy")
