"""HyperAttention as an operator of torch, which ``torch.compile`` and ``torch.export`` take as it is.

The module of a backend has ``sort``, ``attend`` and ``backward``, as :mod:`plain` documents them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from xt_kernels.hyper_attention import plain, plan
from xt_kernels.hyper_attention.plan import Options


def _module(backend: str) -> Any:
    if backend == "plain":
        return plain
    from xt_kernels.hyper_attention import triton_impl  # loads Triton

    return triton_impl


@torch.library.custom_op("xt::hyper_attention", mutates_args=())
def _forward(
    q: Tensor, k: Tensor, v: Tensor, scale: float, options: Sequence[int], backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    module, wanted = _module(backend), Options.unpacked(scale, options)
    order = module.sort(q, k, wanted)
    out, lse = module.attend(q, k, v, order, wanted)
    return out, lse, order


@torch.library.custom_op("xt::hyper_attention_backward", mutates_args=())
def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    order: Tensor,
    scale: float,
    options: Sequence[int],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    wanted = Options.unpacked(scale, options)
    dq, dk, dv = _module(backend).backward(grad, q, k, v, out, lse, order, wanted)
    return dq, dk, dv


def hyper_attention(q: Tensor, k: Tensor, v: Tensor, options: Options, backend: str) -> Tensor:
    """Attend with gradients; ``backend`` names a module of this package."""
    out, _, _ = torch.ops.xt.hyper_attention(q, k, v, options.scale, options.packed(), backend)
    found: Tensor = out
    return found


def _like(x: Tensor) -> Tensor:
    batch, heads, length, dim = x.shape
    return x.new_empty(batch, length, heads, dim).transpose(1, 2)


@_forward.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, scale: float, options: Sequence[int], backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    parts = plan.parts(q.shape[2], k.shape[2], Options.unpacked(scale, options))
    lse = q.new_empty(q.shape[:3], dtype=plan.working(q.dtype))
    return _like(q), lse, q.new_empty(*q.shape[:2], plan.order_length(parts), dtype=torch.int32)


@_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _like(q), _like(k), _like(v)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v, *ctx.settings = inputs
    out, lse, order = output
    ctx.mark_non_differentiable(lse, order)
    ctx.save_for_backward(q, k, v, out, lse, order)


def _differentiate(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    return (*torch.ops.xt.hyper_attention_backward(grad, *ctx.saved_tensors, *ctx.settings), None, None, None)


_forward.register_autograd(_differentiate, setup_context=_save)
