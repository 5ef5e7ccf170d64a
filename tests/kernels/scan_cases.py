"""The Triton scan against the oracle in fp64; run under the interpreter as a program of its own, and on a GPU by tests."""

import sys
from typing import Any

import torch
from torch import Tensor
from triton.runtime.interpreter import InterpreterBuilder

from xt_kernels.selective_scan import reference, triton_impl

CASES = [
    ((1, 9, 70, 4, 1), True, False), ((2, 67, 20, 16, 2), True, True), ((1, 70, 5, 3, 1), False, False),
    ((1, 75, 64, 3, 1), True, True),
]  # fmt: skip
"""Sizes (batch, tokens, channels, states, groups), with a gate or without, reverse or not; the last fills its programs."""


def draw(batch: int, length: int, dim: int, states: int, groups: int) -> list[Tensor]:
    """``u, delta, A, B, C, D, z, delta_bias, initial_state`` in fp64."""
    g = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    b, c = (normal(batch, length, groups, states) for _ in range(2))
    steps = normal(batch, length, dim) - 2
    more = [normal(dim), normal(batch, length, dim), normal(dim), normal(batch, dim, states)]
    return [normal(batch, length, dim), steps, -normal(dim, states).exp(), b, c, *more]


def check(
    sizes: tuple[int, ...], gated: bool, reverse: bool, dtype: torch.dtype, device: str, tolerance: float
) -> None:
    """Raise an AssertionError if an output or a gradient is further away than ``tolerance``, or differs when repeated."""
    tensors = [each.to(dtype).double().requires_grad_() for each in draw(*sizes)]
    u, delta, A, B, C, D, z, bias, start = tensors
    y, end = reference.selective_scan(u, delta, A, B, C, D, z if gated else None, bias, True, start, reverse)
    g = torch.Generator().manual_seed(0)
    dy, dend = (torch.randn(x.shape, generator=g, dtype=torch.float64).to(dtype).double() for x in (y, end))
    leaves = [each for each in tensors if gated or each is not z]
    want = [y, end, *torch.autograd.grad((y * dy).sum() + (end * dend).sum(), leaves)]
    low = [each.detach().to(device, dtype) for each in tensors]
    low[6] = low[6] if gated else None
    arguments = (low, dy.to(device, dtype), dend.to(device, dtype), reverse)
    once = _results(*arguments)
    if device != "cpu":
        assert all(map(torch.equal, once, _results(*arguments)))
    for found, right in zip(once, want, strict=True):
        assert (found.cpu().double() - right).norm() <= tolerance * right.norm(), (sizes, found, right)


def _results(low: list[Tensor], dy: Tensor, dend: Tensor, reverse: bool) -> list[Tensor]:
    *tensors, start = low
    y, end, kept = triton_impl.forward(*tensors, True, start, reverse, True)
    grads = list(triton_impl.backward(dy, dend, *tensors, True, reverse, kept))
    if tensors[6] is None:
        del grads[6]
    return [y, end, *grads]


def poisoned() -> None:
    """Fill memory that is not written with NaN, from here on."""
    empty, like = torch.Tensor.new_empty, torch.empty_like
    torch.Tensor.new_empty = lambda *args, **kwargs: _spoil(empty(*args, **kwargs))  # type: ignore[assignment]
    torch.empty_like = lambda *args, **kwargs: _spoil(like(*args, **kwargs))  # type: ignore[assignment]


def _spoil(x: Tensor) -> Tensor:
    return x.fill_(float("nan")) if x.is_floating_point() and x.numel() else x


def mend_interpreter() -> None:
    """Have the interpreter keep truth as such where it is spread over a block; that of Triton 3.9 makes integers of it."""
    plain = InterpreterBuilder.create_splat

    def create_splat(self: InterpreterBuilder, kind: Any, value: Any) -> Any:
        spread = plain(self, kind, value)
        if value.data.dtype == bool:
            spread.data = spread.data.astype(bool)
        return spread

    InterpreterBuilder.create_splat = create_splat


if __name__ == "__main__":
    poisoned()
    mend_interpreter()
    device, dtype = sys.argv[1], getattr(torch, sys.argv[2])
    for sizes, gated, reverse in CASES:
        check(sizes, gated, reverse, dtype, device, 1e-5 if dtype == torch.float32 else 1e-2)
    triton_impl.SHORTEST = 8  # more chunks than are carried at a time
    check(*CASES[-1], dtype, device, 1e-5 if dtype == torch.float32 else 1e-2)
