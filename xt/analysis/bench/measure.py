"""Time and memory of one run, and the exponent of its growth."""

import gc
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from xt.malloc import return_free_memory

SHORTEST, SMALLEST = 1e-3, 4.0
"""Seconds and mebibytes below which a figure says nothing about growth."""


@dataclass(frozen=True)
class Run:
    """Something that can be measured, with and without gradients.

    Attributes:
        call: Inputs → one tensor.
        inputs: Tensors.
        parameters: What gets gradients besides.
        learned: How many inputs get gradients; those before the others. All by default.
    """

    call: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    parameters: tuple[Tensor, ...] = ()
    learned: int | None = None

    def __call__(self, backward: bool, grad: Tensor | None = None) -> list[Tensor]:
        """Run once; return the output and the gradients. That of the output is itself, unless one is given."""
        learned = self.inputs[: self.learned] if backward else ()
        leaves = [x.detach().requires_grad_() for x in learned]
        with torch.set_grad_enabled(backward):
            out = self.call(*leaves, *self.inputs[len(leaves) :])
        if not backward:
            return [out]
        grad = out.detach() if grad is None else grad.to(out)  # the output itself: no tensor more
        return [out.detach(), *torch.autograd.grad(out, [*leaves, *self.parameters], grad, allow_unused=True)]


@dataclass(frozen=True)
class Spent:
    """What a run took.

    Attributes:
        seconds: Of the clock.
        cpu_seconds: Of the processor, all threads together.
        mebibytes: By which the peak of memory grew beyond inputs and parameters; None if it was not looked at.
    """

    seconds: float
    cpu_seconds: float
    mebibytes: float | None = None

    def on(self, clock: str) -> float:
        """``seconds`` or ``cpu_seconds``."""
        return self.cpu_seconds if clock == "cpu_seconds" else self.seconds

    def least(self, other: "Spent") -> "Spent":
        """The shorter times of both, and the memory that is known."""
        memory = self.mebibytes if other.mebibytes is None else other.mebibytes
        return Spent(min(self.seconds, other.seconds), min(self.cpu_seconds, other.cpu_seconds), memory)


def timed(run: Run, backward: bool, device: str) -> Spent:
    """Run once, and take the time."""
    _wait(device)
    cpu, clock = time.process_time(), time.perf_counter()
    run(backward)
    _wait(device)
    return Spent(time.perf_counter() - clock, time.process_time() - cpu)


def with_peak(run: Run, backward: bool, device: str) -> Spent:
    """Run once, and take time and memory; on a CPU in a process of its own."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        spent = timed(run, backward, device)
        peak = torch.cuda.max_memory_allocated()
    else:
        before = _forget_peak()
        spent = timed(run, backward, device)
        peak = _peak_bytes()
    return Spent(spent.seconds, spent.cpu_seconds, (peak - before) / 2**20)


def exponent(sizes: Sequence[int], values: Sequence[float], least: float) -> float | None:
    """Least squares of log value over log size: 1 is linear. None for fewer than two, or values below ``least``."""
    if len(sizes) < 2 or min(values) < least:
        return None
    return statistics.linear_regression([math.log(n) for n in sizes], [math.log(v) for v in values]).slope


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _forget_peak() -> int:
    """Let the peak be what is held now, where the system can; return it."""
    return_free_memory()  # of earlier runs
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # another system than Linux: earlier peaks hide as much of the run
    return _peak_bytes()


def _peak_bytes() -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    # Not ru_maxrss, which on Linux starts at the peak of the process that started this one.
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
