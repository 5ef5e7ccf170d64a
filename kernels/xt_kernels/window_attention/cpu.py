"""Window attention on CPUs: hands arrays to :mod:`xt_kernels.window_attention.numba_impl`, and heads to threads.

What comes in 16 bits is computed in fp32 and rounded at the end.
"""

import math
from types import ModuleType
from typing import Any

import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from xt_kernels.simd import missing, threads

FEWEST_TASKS = 16
"""Of a call, whatever the number of threads, which so changes no result."""
SMALL = 1 << 21
"""Logits' products with channels that a thread of its own is worth."""
MOST_CHANNELS = 128

Array = npt.NDArray[Any]


def forward(
    qkv: Tensor, scale: Tensor, bias: Tensor, masks: Tensor | None, kinds: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Mixed values ``(W, N, H, D)``, and for backward ``(2, W, H, N)``: of each row the largest logit and 1 / sum."""
    (windows, tokens, _, heads, dim), dtype = qkv.shape, qkv.dtype
    qkv = qkv.to(_computed(dtype))
    out, kept = qkv.new_empty(windows, tokens, heads, dim), qkv.new_empty(2, windows, heads, tokens)
    kernel, sizes = _compiled().forward(*_shapes(qkv)), _sizes(qkv)
    threads.run(kernel, *_tasks(sizes), (sizes, *_inputs(qkv, scale, bias, masks, kinds), _flat(out), _flat(kept)))
    return out.to(dtype), kept


def backward(
    grad: Tensor,
    qkv: Tensor,
    scale: Tensor,
    bias: Tensor,
    masks: Tensor | None,
    kinds: Tensor | None,
    out: Tensor,
    kept: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``qkv``, ``scale`` and ``bias``."""
    (_, tokens, _, heads, _), dtype = qkv.shape, qkv.dtype
    qkv = qkv.to(_computed(dtype))
    kernel, sizes = _compiled().backward(*_shapes(qkv)), _sizes(qkv)
    *_, wide, parts = sizes
    dqkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    dscale = torch.empty(parts, heads, dtype=torch.float64)
    dbias = qkv.new_zeros(parts, heads, tokens, wide)
    given = (*_inputs(qkv, scale, bias, masks, kinds), _flat(kept), _flat(grad.to(qkv.dtype)))
    threads.run(kernel, *_tasks(sizes), (sizes, *given, *map(_flat, (dqkv, dscale, dbias))))
    of_bias = dbias.sum(0)[..., :tokens] if parts > 1 else dbias[0, ..., :tokens]
    return dqkv.to(dtype), dscale.sum(0).to(scale.dtype), of_bias.to(bias.dtype, memory_format=torch.contiguous_format)


def refuses(qkv: Tensor, *_: Tensor | None) -> str | None:
    """Say why these cannot be taken, or return None if they can."""
    if qkv.shape[-1] > MOST_CHANNELS:
        return f"heads have {qkv.shape[-1]} channels, more than {MOST_CHANNELS}"
    return missing(f"{__package__}.numba_impl")


def _computed(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype is torch.float64 else torch.float32


def _compiled() -> ModuleType:
    from xt_kernels.window_attention import numba_impl  # loads numba

    return numba_impl


def _shapes(qkv: Tensor) -> tuple[int, int, int, int]:
    """Padded channels of a head, widths of the tiles of logits and of channels, and numbers of a row at once."""
    compiled = _compiled()
    channels = -(-qkv.shape[-1] // compiled.SIDE) * compiled.SIDE
    lanes = compiled.width(qkv.shape[1])
    return channels, lanes, compiled.width(channels), math.gcd(_wide(qkv.shape[1], lanes), compiled.native_lanes())


def _wide(tokens: int, lanes: int) -> int:
    return -(-tokens // lanes) * lanes


def _sizes(qkv: Tensor) -> tuple[int, ...]:
    """The ``sizes`` of the kernels."""
    windows, tokens, _, heads, dim = qkv.shape
    return windows, tokens, heads, dim, _wide(tokens, _shapes(qkv)[1]), min(windows, -(-FEWEST_TASKS // heads))


def _inputs(qkv: Tensor, scale: Tensor, bias: Tensor, masks: Tensor | None, kinds: Tensor | None) -> tuple[Array, ...]:
    """In one dtype; bias and masks in rows as wide as the kernels', beyond whose tokens bias is minus infinity."""
    *_, wide, _ = _sizes(qkv)
    bias, masks = bias.detach(), qkv.new_empty(0) if masks is None else masks
    if beyond := wide - qkv.shape[1]:
        bias, masks = F.pad(bias, (0, beyond), value=-math.inf), F.pad(masks, (0, beyond))
    floats = (_flat(each.to(qkv.dtype)) for each in (qkv, scale, bias, masks))
    return *floats, _flat(torch.empty(0, dtype=torch.int64) if kinds is None else kinds.long())


def _flat(x: Tensor) -> Array:
    array: Array = x.detach().contiguous().view(-1).numpy()
    return array


def _tasks(sizes: tuple[int, ...]) -> tuple[int, int]:
    """How many there are, and how many threads they are worth."""
    windows, tokens, heads, dim, wide, parts = sizes
    return heads * parts, windows * heads * tokens * wide * dim // SMALL
