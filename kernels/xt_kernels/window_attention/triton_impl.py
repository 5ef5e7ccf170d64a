"""Window attention in Triton: one program per window, head and block of queries or keys.

Directions are normalised where they are loaded, and logits never leave the chip. Backward has three kernels, each with
its own loop, so that every sum is in a fixed order: queries and scale, keys and values, bias. Products are in the dtype
of ``qkv`` with fp32 sums; fp32 is multiplied as fp32.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from xt_kernels.window_attention.reference import SMALLEST_NORM

BLOCKS = {
    2: {"forward": 64, "queries": 64, "keys": 64, "bias": 32},
    4: {"forward": 64, "queries": 64, "keys": 64, "bias": 64},
}
"""Bytes of a number → kernel → queries or keys of a program. Backward in fp32 spills up to 504 bytes of a thread
with these, and takes half the time that it takes with 32, which spill nothing (H100)."""
WINDOWS = 16
"""Parts into which windows are cut to sum the gradient of the bias."""


@triton.jit
def _load(pointer, rows, size, stride, channels, DIM: tl.constexpr):
    return tl.load(
        pointer + rows[:, None].to(tl.int64) * stride + channels[None, :],
        mask=(rows < size)[:, None] & (channels < DIM)[None, :],
        other=0.0,
    )


@triton.jit
def _inverse_norm(x, SMALLEST: tl.constexpr):
    x = x.to(tl.float32)
    return 1.0 / tl.maximum(tl.sqrt(tl.sum(x * x, 1)), SMALLEST)


@triton.jit
def _added(bias, masks, kind, head, rows, cols, size):
    """Bias and mask of a tile of logits; -inf where there is no key."""
    place = rows[:, None] * size + cols[None, :]  # of 32 bits: windows are small, and registers few
    inside = (rows < size)[:, None] & (cols < size)[None, :]
    bias += head.to(tl.int64) * size * size
    added = tl.load(bias + place, mask=inside, other=0.0).to(tl.float32)
    if kind > 0:
        masks += (kind - 1).to(tl.int64) * size * size
        added += tl.load(masks + place, mask=inside, other=0.0).to(tl.float32)
    return tl.where((cols < size)[None, :], added, -float("inf"))


@triton.jit
def _forward(
    qkv, scale, bias, masks, kinds, out, lse, size, num_heads, num_kinds,
    DIM: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SMALLEST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    window, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    kind = tl.load(kinds + window % num_kinds)
    rows = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    channels = tl.arange(0, WIDTH)
    row = 3 * num_heads * DIM
    base = qkv + window * size * row + head * DIM
    q = _load(base, rows, size, row, channels, DIM)
    q = (q * (_inverse_norm(q, SMALLEST) * tl.load(scale + head).to(tl.float32))[:, None]).to(q.dtype)
    highest = tl.full((BLOCK,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    mixed = tl.zeros((BLOCK, WIDTH), tl.float32)
    for start in range(0, size, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        k = _load(base + num_heads * DIM, cols, size, row, channels, DIM)
        k = (k * _inverse_norm(k, SMALLEST)[:, None]).to(k.dtype)
        v = _load(base + 2 * num_heads * DIM, cols, size, row, channels, DIM)
        logits = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        logits += _added(bias, masks, kind, head, rows, cols, size)
        above = tl.maximum(highest, tl.max(logits, 1))
        shrink = tl.exp(highest - above)
        weights = tl.exp(logits - above[:, None])
        total = total * shrink + tl.sum(weights, 1)
        mixed = mixed * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
        highest = above
    inside = (rows < size)[:, None] & (channels < DIM)[None, :]
    place = (window * size + rows[:, None]) * num_heads * DIM + head * DIM + channels[None, :]
    tl.store(out + place, (mixed / total[:, None]).to(out.dtype.element_ty), mask=inside)
    tl.store(lse + (window * num_heads + head) * size + rows, highest + tl.log(total), mask=rows < size)


@triton.jit
def _backward_queries(
    qkv, scale, bias, masks, kinds, lse, delta, grad, grad_qkv, grad_scale, size, num_heads, num_kinds,
    DIM: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SMALLEST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    window, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    kind = tl.load(kinds + window % num_kinds)
    rows = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    channels = tl.arange(0, WIDTH)
    row = 3 * num_heads * DIM
    base = qkv + window * size * row + head * DIM
    q = _load(base, rows, size, row, channels, DIM)
    inverse = _inverse_norm(q, SMALLEST)
    factor = tl.load(scale + head).to(tl.float32)
    direction = q.to(tl.float32) * inverse[:, None]
    scaled = (direction * factor).to(q.dtype)
    d = _load(grad + window * size * num_heads * DIM + head * DIM, rows, size, num_heads * DIM, channels, DIM)
    state = (window * num_heads + head) * size + rows
    level = tl.load(lse + state, mask=rows < size, other=float("inf"))
    mean = tl.load(delta + state, mask=rows < size, other=0.0)
    total = tl.zeros((BLOCK, WIDTH), tl.float32)
    for start in range(0, size, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        k = _load(base + num_heads * DIM, cols, size, row, channels, DIM)
        k = (k * _inverse_norm(k, SMALLEST)[:, None]).to(k.dtype)
        v = _load(base + 2 * num_heads * DIM, cols, size, row, channels, DIM)
        logits = tl.dot(scaled, tl.trans(k), input_precision=PRECISION)
        weights = tl.exp(logits + _added(bias, masks, kind, head, rows, cols, size) - level[:, None])
        error = weights * (tl.dot(d, tl.trans(v), input_precision=PRECISION) - mean[:, None])
        total += tl.dot(error.to(k.dtype), k, input_precision=PRECISION)
    along = tl.sum(total * direction, 1)
    total = (total - direction * along[:, None]) * (inverse * factor)[:, None]
    inside = (rows < size)[:, None] & (channels < DIM)[None, :]
    place = (window * size + rows[:, None]) * row + head * DIM + channels[None, :]
    tl.store(grad_qkv + place, total.to(grad_qkv.dtype.element_ty), mask=inside)
    tl.store(grad_scale + state, along, mask=rows < size)


@triton.jit
def _backward_keys(
    qkv, scale, bias, masks, kinds, lse, delta, grad, grad_qkv, size, num_heads, num_kinds,
    DIM: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SMALLEST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    window, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    kind = tl.load(kinds + window % num_kinds)
    cols = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    channels = tl.arange(0, WIDTH)
    row = 3 * num_heads * DIM
    base = qkv + window * size * row + head * DIM
    k = _load(base + num_heads * DIM, cols, size, row, channels, DIM)
    inverse = _inverse_norm(k, SMALLEST)
    direction = k.to(tl.float32) * inverse[:, None]
    key = direction.to(k.dtype)
    v = _load(base + 2 * num_heads * DIM, cols, size, row, channels, DIM)
    factor = tl.load(scale + head).to(tl.float32)
    grad_k = tl.zeros((BLOCK, WIDTH), tl.float32)
    grad_v = tl.zeros((BLOCK, WIDTH), tl.float32)
    for start in range(0, size, BLOCK):
        rows = start + tl.arange(0, BLOCK)
        q = _load(base, rows, size, row, channels, DIM)
        q = (q * (_inverse_norm(q, SMALLEST) * factor)[:, None]).to(q.dtype)
        d = _load(grad + window * size * num_heads * DIM + head * DIM, rows, size, num_heads * DIM, channels, DIM)
        state = (window * num_heads + head) * size + rows
        level = tl.load(lse + state, mask=rows < size, other=float("inf"))
        mean = tl.load(delta + state, mask=rows < size, other=0.0)
        logits = tl.dot(q, tl.trans(key), input_precision=PRECISION)
        weights = tl.exp(logits + _added(bias, masks, kind, head, rows, cols, size) - level[:, None])
        grad_v += tl.dot(tl.trans(weights.to(d.dtype)), d, input_precision=PRECISION)
        error = weights * (tl.dot(d, tl.trans(v), input_precision=PRECISION) - mean[:, None])
        grad_k += tl.dot(tl.trans(error.to(q.dtype)), q, input_precision=PRECISION)
    along = tl.sum(grad_k * direction, 1)
    grad_k = (grad_k - direction * along[:, None]) * inverse[:, None]
    inside = (cols < size)[:, None] & (channels < DIM)[None, :]
    place = (window * size + cols[:, None]) * row + (num_heads + head) * DIM + channels[None, :]
    tl.store(grad_qkv + place, grad_k.to(grad_qkv.dtype.element_ty), mask=inside)
    tl.store(grad_qkv + place + num_heads * DIM, grad_v.to(grad_qkv.dtype.element_ty), mask=inside)


@triton.jit
def _backward_bias(
    qkv, scale, bias, masks, kinds, lse, delta, grad, partial, num_windows, size, num_heads, num_kinds, blocks,
    DIM: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SMALLEST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    head, part, parts = tl.program_id(1), tl.program_id(2), tl.num_programs(2)
    rows = tl.program_id(0) // blocks * BLOCK + tl.arange(0, BLOCK)
    cols = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    channels = tl.arange(0, WIDTH)
    row = 3 * num_heads * DIM
    factor = tl.load(scale + head).to(tl.float32)
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for index in range(part, num_windows, parts):
        window = tl.cast(index, tl.int64)
        kind = tl.load(kinds + window % num_kinds)
        base = qkv + window * size * row + head * DIM
        q = _load(base, rows, size, row, channels, DIM)
        q = (q * (_inverse_norm(q, SMALLEST) * factor)[:, None]).to(q.dtype)
        k = _load(base + num_heads * DIM, cols, size, row, channels, DIM)
        k = (k * _inverse_norm(k, SMALLEST)[:, None]).to(k.dtype)
        v = _load(base + 2 * num_heads * DIM, cols, size, row, channels, DIM)
        d = _load(grad + window * size * num_heads * DIM + head * DIM, rows, size, num_heads * DIM, channels, DIM)
        state = (window * num_heads + head) * size + rows
        level = tl.load(lse + state, mask=rows < size, other=float("inf"))
        mean = tl.load(delta + state, mask=rows < size, other=0.0)
        logits = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        weights = tl.exp(logits + _added(bias, masks, kind, head, rows, cols, size) - level[:, None])
        total += weights * (tl.dot(d, tl.trans(v), input_precision=PRECISION) - mean[:, None])
    place = (part.to(tl.int64) * num_heads + head) * size * size + rows[:, None].to(tl.int64) * size + cols[None, :]
    tl.store(partial + place, total, mask=(rows < size)[:, None] & (cols < size)[None, :])


def forward(
    qkv: Tensor, scale: Tensor, bias: Tensor, masks: Tensor | None, kinds: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Mixed values ``(W, N, H, D)``, and the logarithm of the sum of each softmax ``(W, H, N)``."""
    windows, tokens, _, heads, dim = qkv.shape
    out = qkv.new_empty(windows, tokens, heads, dim)
    lse = qkv.new_empty(windows, heads, tokens, dtype=torch.float32)
    inputs = _inputs(qkv, scale, bias, masks, kinds)
    options = _options("forward", qkv)
    grid = (windows, heads, triton.cdiv(tokens, options["BLOCK"]))
    _forward[grid](*inputs, out, lse, tokens, heads, len(inputs[4]), **options)
    return out, lse


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
    windows, tokens, _, heads, _ = qkv.shape
    grad = grad.contiguous()
    delta = (grad.float() * out.float()).sum(-1).transpose(1, 2).contiguous()
    inputs = _inputs(qkv, scale, bias, masks, kinds)
    sizes = (tokens, heads, len(inputs[4]))
    grad_qkv, grad_scale = torch.empty_like(inputs[0]), torch.empty_like(lse)
    options = _options("queries", qkv)
    grid = (windows, heads, triton.cdiv(tokens, options["BLOCK"]))
    _backward_queries[grid](*inputs, lse, delta, grad, grad_qkv, grad_scale, *sizes, **options)
    options = _options("keys", qkv)
    grid = (windows, heads, triton.cdiv(tokens, options["BLOCK"]))
    _backward_keys[grid](*inputs, lse, delta, grad, grad_qkv, *sizes, **options)
    options = _options("bias", qkv)
    blocks = triton.cdiv(tokens, options["BLOCK"])
    partial = lse.new_empty(min(WINDOWS, windows), *bias.shape)
    grid = (blocks**2, heads, len(partial))
    _backward_bias[grid](*inputs, lse, delta, grad, partial, windows, *sizes, blocks, **options)
    return grad_qkv, grad_scale.sum((0, 2)).to(scale.dtype), partial.sum(0).to(bias.dtype)


def _inputs(qkv: Tensor, scale: Tensor, bias: Tensor, masks: Tensor | None, kinds: Tensor | None) -> list[Tensor]:
    kinds = torch.zeros(1, dtype=torch.int64, device=qkv.device) if kinds is None else kinds
    return [each.contiguous() for each in (qkv, scale, bias, bias if masks is None else masks, kinds)]


def _options(kernel: str, qkv: Tensor) -> dict[str, Any]:
    single = qkv.dtype == torch.float32
    return {
        "DIM": qkv.shape[-1],
        "WIDTH": max(16, triton.next_power_of_2(qkv.shape[-1])),
        "BLOCK": BLOCKS[qkv.element_size()][kernel],
        "SMALLEST": SMALLEST_NORM,
        "PRECISION": "tf32x3" if single else "tf32",
        "num_warps": 4 if kernel == "bias" or single else 8,
        "num_stages": 1 if single else 2,
    }
