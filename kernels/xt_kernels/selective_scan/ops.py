"""The backends with gradients, as operators of PyTorch: ``torch.compile`` and ``torch.export`` see through."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from xt_kernels.dispatch import Backend, missing
from xt_kernels.selective_scan import cpu


@torch.library.custom_op("xt::selective_scan", mutates_args=())
def _forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    reverse: bool,
    keep: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    arguments = (u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, reverse, keep)
    result: tuple[Tensor, Tensor, Tensor] = _module(backend).forward(*arguments)
    return result


@_forward.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    reverse: bool,
    keep: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    state = u.new_empty(u.shape[0], u.shape[2], A.shape[1], dtype=cpu.compute_dtype(u))
    kept = u.new_empty(_module(backend).kept_shape(u, A, keep), dtype=cpu.compute_dtype(u))
    return u.new_empty(u.shape), state, kept


@torch.library.custom_op("xt::selective_scan_backward", mutates_args=())
def _backward(
    dy: Tensor,
    dend: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
    kept: Tensor,
    backend: str,
) -> list[Tensor]:
    arguments = (dy, dend, u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, kept)
    return list(_module(backend).backward(*arguments))


@_backward.register_fake
def _(
    dy: Tensor, dend: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, *others: Any
) -> list[Tensor]:
    shapes = (u.shape, u.shape, A.shape, B.shape, C.shape, A.shape[:1], u.shape, A.shape[:1], dend.shape)
    return [u.new_empty(shape, dtype=cpu.compute_dtype(u)) for shape in shapes]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.softplus, start, ctx.reverse, _, ctx.backend = inputs
    ctx.save_for_backward(*tensors, start, output[2])
    ctx.sizes = output[0].shape, output[1].shape


def _differentiate(ctx: Any, dy: Tensor | None, dend: Tensor | None, dkept: Tensor | None) -> tuple[Any, ...]:
    *tensors, start, kept = ctx.saved_tensors
    dy, dend = (
        tensors[0].new_zeros(size, dtype=cpu.compute_dtype(tensors[0])) if grad is None else grad
        for grad, size in zip((dy, dend), ctx.sizes, strict=True)
    )
    grads = _backward(dy, dend, *tensors, ctx.softplus, ctx.reverse, kept, ctx.backend)
    *of_tensors, of_start = (
        None if given is None else grad.to(given.dtype) for grad, given in zip(grads, (*tensors, start), strict=True)
    )
    return (*of_tensors, None, of_start, None, None, None)


_forward.register_autograd(_differentiate, setup_context=_setup)


def _module(backend: str) -> ModuleType:
    if backend == "numba":
        return cpu
    from xt_kernels.selective_scan import triton_impl  # loads Triton

    return triton_impl


def _triton_refuses(u: Tensor, delta: Tensor, A: Tensor, *others: Any) -> str | None:
    if u.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"u is {u.dtype}"
    return f"{A.shape[1]} states are more than 64" if A.shape[1] > 64 else missing("triton")


def _run(backend: str) -> Callable[..., tuple[Tensor, Tensor]]:
    def run(*arguments: Any) -> tuple[Tensor, Tensor]:
        keep = torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in arguments)
        y, state, _ = _forward(*arguments, keep, backend)
        return y, state

    return run


BACKENDS = {
    "triton": Backend(_run("triton"), _triton_refuses, ("cuda",), opaque=True),
    "numba": Backend(_run("numba"), cpu.refuses, ("cpu",), opaque=True),
}
"""Best first."""
