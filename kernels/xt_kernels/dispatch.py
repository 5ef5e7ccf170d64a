"""Which backend of an op runs: argument, :func:`using`, environment variable XT_BACKEND, the default of the device.

A backend is the whole op. To add one, write a file with a function that has the arguments of the others, and name it
in the op's ``BACKENDS``, best first.
"""

import functools
import importlib.util
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd import forward_ad

P = ParamSpec("P")
R = TypeVar("R")

VARIABLE = "XT_BACKEND"
PORTABLE = "portable"
"""The backend of an op that is made for exported graphs: operations that other runtimes have, and not more of them for
longer sequences."""

_log = logging.getLogger(__name__)
_used = threading.local()  # not a ContextVar, into which the compiler of torch 2.10 does not see


@contextmanager
def using(name: str) -> Iterator[None]:
    """Run all ops of this thread by the backend of this name, unless they are asked for another."""
    before = getattr(_used, "name", None)
    _used.name = name
    try:
        yield
    finally:
        _used.name = before


def _takes_all(*args: object, **kwargs: object) -> str | None:
    return None


@dataclass(frozen=True)
class Backend(Generic[P, R]):
    """One implementation of a whole op.

    Attributes:
        run: The op, given arguments that its interface has validated.
        refuses: Given the same arguments, says in a few words why ``run`` cannot take them, or None if it can.
        devices: Device types it runs on; all if empty.
        opaque: It is an operator of PyTorch's, into which forward-mode derivatives and ``torch.func.grad`` do not see:
            those would take its derivative for 0.
    """

    run: Callable[P, R]
    refuses: Callable[P, str | None] = _takes_all
    devices: tuple[str, ...] = ()
    opaque: bool = False

    def reason(self, *args: P.args, **kwargs: P.kwargs) -> str | None:
        """Say why it cannot take the arguments, or return None if it can."""
        device = _device(*args, **kwargs)
        if self.devices and device not in self.devices:
            return f"runs on {', '.join(self.devices)}, and the tensors are on {device}"
        if self.opaque and transformed():
            return "forward-mode derivatives and torch.func.grad do not see into it"
        return self.refuses(*args, **kwargs)


def transformed() -> bool:
    """Whether derivatives are taken in forward mode, or by a transform of ``torch.func``."""
    if torch.compiler.is_compiling():
        return False  # the compiler has transforms of its own
    transforms = _functorch.get_interpreter_stack() or []
    derive = _functorch.TransformType.Grad, _functorch.TransformType.Jvp
    return forward_ad._current_level >= 0 or any(each.key() in derive for each in transforms)


def missing(package: str) -> str | None:
    """Say that a package is not installed, or return None if it is."""
    return None if _installed(package) else f"{package} is not installed"


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator,unused-ignore]
def _installed(package: str) -> bool:
    # Constant, since a compiler does not trace into the search.
    return importlib.util.find_spec(package) is not None


def call(op: str, backends: Mapping[str, Backend[P, R]], asked: str | None, *args: P.args, **kwargs: P.kwargs) -> R:
    """Run an op by the backend that is asked for, or by the first that takes the arguments.

    Args:
        op: Name of the op, for messages.
        backends: Name → backend, best first; the default of a device is the first one for it.
        asked: Name that the caller gives, which wins over :func:`using`, and that over ``XT_BACKEND``. None of them is
            ever replaced by another.
        *args: Arguments of the op, the first a tensor.
        **kwargs: More of them.

    Raises:
        ValueError: If a backend that is asked for does not exist or cannot take the arguments, or if none can.
    """
    name = asked or getattr(_used, "name", None)
    source = "backend" if name else VARIABLE
    name = name or os.environ.get(VARIABLE)
    if name:
        if name not in backends:
            raise ValueError(f"{op} has no backend {name!r} (from {source}); known: {', '.join(sorted(backends))}")
        reason = backends[name].reason(*args, **kwargs)
        if reason:
            raise ValueError(f"{op}: backend {name!r} (from {source}) cannot take this: {reason}; ask for another")
        return backends[name].run(*args, **kwargs)
    return backends[_automatic(op, backends, *args, **kwargs)].run(*args, **kwargs)


def _automatic(op: str, backends: Mapping[str, Backend[P, R]], *args: P.args, **kwargs: P.kwargs) -> str:
    device = _device(*args, **kwargs)
    refused: list[str] = []
    for name, backend in backends.items():
        if backend.devices and device not in backend.devices:
            continue
        reason = backend.reason(*args, **kwargs)
        if reason is None:
            if not torch.compiler.is_compiling():  # a log inside a graph is a break of it
                _tell(op, name, device, tuple(refused))
            return name
        refused.append(f"{name}: {reason}")
    raise ValueError(f"{op}: no backend can take this on {device} ({'; '.join(refused) or 'none runs there'})")


@functools.cache
def _tell(op: str, name: str, device: str, refused: tuple[str, ...]) -> None:
    # Cached, so that each choice is told once in a process.
    if refused:
        _log.warning("%s on %s: backend %s instead of a faster one (%s)", op, device, name, "; ".join(refused))
    else:
        _log.info("%s on %s: backend %s", op, device, name)


def _device(*args: object, **kwargs: object) -> str:
    return next(each.device.type for each in (*args, *kwargs.values()) if isinstance(each, Tensor))
