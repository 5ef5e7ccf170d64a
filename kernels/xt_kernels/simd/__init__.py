"""What kernels for CPUs are written in: vectors of Numba, and threads."""

import importlib

import torch


def missing(module: str) -> str | None:
    """Say that a module of kernels cannot be loaded, or return None if it can."""
    reason: str | None = _missing(module)
    return reason


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator,unused-ignore]
def _missing(module: str) -> str | None:
    # Constant, since a compiler does not trace into an import.
    try:
        importlib.import_module(module)
    except ImportError as error:
        return f"numba cannot be used ({error})"
    return None
