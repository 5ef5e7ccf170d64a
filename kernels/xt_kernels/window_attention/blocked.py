"""Window attention by PyTorch's fused attention; backward block by block, so that logits stay in the cache.

What is kept for backward is ``qkv``, not the logits.
"""

from collections.abc import Iterator
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from xt_kernels.window_attention.reference import SMALLEST_NORM

BLOCK = 2**18
"""Logits worked on at a time in backward: a megabyte of fp32, about the L2 cache of a core."""


def forward(
    qkv: Tensor, scale: Tensor, bias: Tensor, masks: Tensor | None, kinds: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Mixed values ``(W, N, H, D)``; the second, what backward needs beside the arguments, is empty."""
    qk = qkv[:, :, :2] * _factors(qkv, scale).unsqueeze(-1)
    out = torch.empty_like(qkv[:, :, 0], memory_format=torch.contiguous_format)
    # Detached: one that requires a gradient, here too, is refused by the fused attention.
    for start, stop, logits in _runs(len(qkv), bias.detach().to(qkv.dtype), masks, kinds):
        q, k = (qk[start:stop, :, i].transpose(1, 2) for i in (0, 1))
        v = qkv[start:stop, :, 2].transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=logits.unsqueeze(0), scale=1.0)
        out[start:stop] = mixed.transpose(1, 2)
    return out, out.new_empty(0)


def backward(
    grad: Tensor,
    qkv: Tensor,
    scale: Tensor,
    bias: Tensor,
    masks: Tensor | None,
    kinds: Tensor | None,
    out: Tensor,
    lse: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``qkv``, ``scale`` and ``bias``."""
    dtype = torch.promote_types(qkv.dtype, torch.float32)
    factors = _factors(qkv, scale)
    grad_qkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    grad_bias = torch.zeros_like(bias, dtype=dtype)
    for start, stop, logits in _runs(len(qkv), bias.to(dtype), masks, kinds):
        for windows, heads in _blocks(start, stop, *logits.shape[:2]):
            part = qkv[windows, ..., heads, :].to(dtype)
            q, k = (part[:, :, :2] * factors[windows, ..., heads, None]).permute(2, 0, 3, 1, 4)
            v, d = part[:, :, 2].transpose(1, 2), grad[windows, :, heads].to(dtype).transpose(1, 2)
            weights = (q @ k.mT).add_(logits[heads]).softmax(-1)
            grad_qkv[windows, :, 2, heads] = (weights.mT @ d).transpose(1, 2)
            # More exact than through (d · out): the rows of the errors sum to 0.
            error = torch._softmax_backward_data(d @ v.mT, weights, -1, dtype)
            grad_bias[heads] += error.sum(0)
            grad_qkv[windows, :, 0, heads] = (error @ k).transpose(1, 2)
            grad_qkv[windows, :, 1, heads] = (error.mT @ q).transpose(1, 2)
    grad_scale = _through_norms(grad_qkv, qkv, scale)
    return grad_qkv, grad_scale, grad_bias.to(bias.dtype)


def _factors(qkv: Tensor, scale: Tensor) -> Tensor:
    """What queries and keys are multiplied by, ``(W, N, 2, H)``."""
    norms = torch.linalg.vector_norm(qkv[:, :, :2], dim=-1, dtype=torch.promote_types(qkv.dtype, torch.float32))
    factors = norms.clamp_(min=SMALLEST_NORM).reciprocal_()
    factors[:, :, 0] *= scale
    result: Tensor = factors.to(qkv.dtype)
    return result


def _through_norms(grad: Tensor, qkv: Tensor, scale: Tensor) -> Tensor:
    """Turn the gradients of scaled directions into those of queries and keys, in place; return that of the scale."""
    dtype = torch.promote_types(qkv.dtype, torch.float32)
    x, g = qkv[:, :, :2].to(dtype), grad[:, :, :2].to(dtype)
    inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_(min=SMALLEST_NORM).reciprocal_()
    x = x * inverse
    along = (x * g).sum(-1, keepdim=True)
    grad_scale: Tensor = along[:, :, 0].sum((0, 1, 3)).to(scale.dtype)
    g = g.addcmul(x, along, value=-1).mul_(inverse)
    g[:, :, 0] *= scale.to(dtype)[:, None]
    grad[:, :, :2] = g
    return grad_scale


def _runs(
    num_windows: int, bias: Tensor, masks: Tensor | None, kinds: Tensor | None
) -> Iterator[tuple[int, int, Tensor]]:
    """Neighbouring windows with the same mask: start, stop and ``(H, N, N)`` to add to their logits."""
    if masks is None or kinds is None:
        yield 0, num_windows, bias
        return
    added: dict[int, Tensor] = {}
    start = 0
    for kind, run in groupby(kinds.tolist() * (num_windows // len(kinds))):
        stop = start + len(list(run))
        if kind not in added:
            added[kind] = bias + masks[kind - 1].to(bias.dtype) if kind else bias
        yield start, stop, added[kind]
        start = stop


def _blocks(start: int, stop: int, heads: int, tokens: int) -> Iterator[tuple[slice, slice]]:
    """Slices of windows and heads."""
    num_windows = max(1, BLOCK // (heads * tokens**2))
    num_heads = heads if num_windows > 1 else max(1, BLOCK // tokens**2)
    for w in range(start, stop, num_windows):
        for h in range(0, heads, num_heads):
            yield slice(w, min(w + num_windows, stop)), slice(h, min(h + num_heads, heads))
