"""The backends with gradients, as operators of PyTorch: ``torch.compile`` and ``torch.export`` see through."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from xt_kernels.dispatch import Backend, missing
from xt_kernels.window_attention import blocked, cpu
from xt_kernels.window_attention.reference import check_kinds


@torch.library.custom_op("xt::window_attention", mutates_args=())
def _forward(
    qkv: Tensor, scale: Tensor, bias: Tensor, masks: Tensor | None, kinds: Tensor | None, backend: str
) -> tuple[Tensor, Tensor]:
    if qkv.device.type == "cpu":  # a GPU would have to be waited for
        check_kinds(masks, kinds)
    result: tuple[Tensor, Tensor] = _module(backend).forward(qkv, scale, bias, masks, kinds)
    return result


@torch.library.custom_op("xt::window_attention_backward", mutates_args=())
def _backward(
    grad: Tensor,
    qkv: Tensor,
    scale: Tensor,
    bias: Tensor,
    masks: Tensor | None,
    kinds: Tensor | None,
    out: Tensor,
    kept: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    result: tuple[Tensor, Tensor, Tensor] = _module(backend).backward(grad, qkv, scale, bias, masks, kinds, out, kept)
    return result


@_forward.register_fake
def _(qkv: Tensor, scale: Tensor, bias: Tensor, masks: Tensor | None, kinds: Tensor | None, backend: str) -> Any:
    windows, tokens, _, heads, dim = qkv.shape
    kept = {"triton": (windows, heads, tokens), "numba": (2, windows, heads, tokens)}.get(backend, (0,))
    dtype = qkv.dtype if backend == "blocked" or qkv.dtype is torch.float64 else torch.float32
    return qkv.new_empty(windows, tokens, heads, dim), qkv.new_empty(kept, dtype=dtype)


@_backward.register_fake
def _(grad: Tensor, qkv: Tensor, scale: Tensor, bias: Tensor, *others: Any) -> Any:
    return qkv.new_empty(qkv.shape), torch.empty_like(scale), bias.new_empty(bias.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.backend = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, of_kept: Tensor | None) -> tuple[Any, ...]:
    if grad is None:
        return None, None, None, None, None, None
    return (*_backward(grad, *ctx.saved_tensors, ctx.backend), None, None, None)


_forward.register_autograd(_differentiate, setup_context=_setup)


def _module(backend: str) -> ModuleType:
    if backend != "triton":
        return {"blocked": blocked, "numba": cpu}[backend]
    from xt_kernels.window_attention import triton_impl  # loads Triton

    return triton_impl


def _run(backend: str) -> Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor | None], Tensor]:
    def run(qkv: Tensor, scale: Tensor, bias: Tensor, masks: Tensor | None, kinds: Tensor | None) -> Tensor:
        out: Tensor = _forward(qkv, scale, bias, masks, kinds, backend)[0]
        return out

    return run


def _triton_refuses(qkv: Tensor, scale: Tensor, bias: Tensor, masks: Tensor | None, kinds: Tensor | None) -> str | None:
    if qkv.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"qkv is {qkv.dtype}"
    if qkv.shape[-1] > 128:
        return f"heads have {qkv.shape[-1]} channels, more than 128"
    if qkv.shape[1] > 2**15:
        return f"windows have {qkv.shape[1]} tokens, more than {2**15}"
    return missing("triton")


BACKENDS = {
    "triton": Backend(_run("triton"), _triton_refuses, ("cuda",), opaque=True),
    "numba": Backend(_run("numba"), cpu.refuses, ("cpu",), opaque=True),
    "blocked": Backend(_run("blocked"), opaque=True),
}
"""Best first."""
