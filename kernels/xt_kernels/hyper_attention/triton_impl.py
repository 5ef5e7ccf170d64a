"""HyperAttention in Triton: blocks of sorted queries and keys are read through their index, nothing is copied sorted.

Each program holds the softmax of some queries over their own block and all samples, so there is nothing to merge. In
backward each key of a block has one program; what samples get from all queries is summed over runs of queries first,
so that no result depends on the order of programs. Exact causal parts are one block without samples.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from xt_kernels.hyper_attention import plan
from xt_kernels.hyper_attention.plan import Options, Part

_LENGTHS = "length keys q_size k_size samples run order_row lse_row place q_first k_first".split()
LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit(do_not_specialize=["rows", "first"])
def _hash_kernel(
    x_ptr,
    directions_ptr,
    rank_ptr,
    heads,
    stride_b,
    stride_h,
    stride_l,
    first,
    rows,
    DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PROJECTIONS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Write the rank of each row's signs: x (B, H, ·, D), directions (P, D), rank (B·H, rows)."""
    head = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, BLOCK_D)
    x_head = _head(x_ptr, head, heads, stride_b, stride_h)
    x = _load(x_head, row.to(tl.int64) + first, row < rows, stride_l, channel, DIM, tl.float32)
    rank = tl.zeros([ROWS], tl.int32)
    odd = tl.zeros([ROWS], tl.int32)
    for p in tl.static_range(PROJECTIONS):
        direction = tl.load(directions_ptr + p * DIM + channel, channel < DIM, 0.0)
        odd = odd ^ (tl.sum(x * direction[None, :], 1) > 0).to(tl.int32)
        rank = rank * 2 + odd
    tl.store(rank_ptr + head.to(tl.int64) * rows + row, rank.to(rank_ptr.dtype.element_ty), row < rows)


@triton.jit
def _head(ptr, head, heads, stride_b, stride_h):
    """Move to one of the (B, H) sequences."""
    return ptr + (head // heads).to(tl.int64) * stride_b + (head % heads).to(tl.int64) * stride_h


@triton.jit
def _tokens(order_ptr, place, valid, first, SORTED: tl.constexpr):
    """Return the tokens at places of the sorted order, as 64-bit indices."""
    if SORTED:
        place = tl.load(order_ptr + place, valid, 0)
    return place.to(tl.int64) + first


@triton.jit
def _load(ptr, index, valid, stride, channel, DIM: tl.constexpr, DTYPE: tl.constexpr):
    """Load rows of channels; rows and channels that are not there are 0."""
    mask = valid[:, None] & (channel < DIM)[None, :]
    return tl.load(ptr + index[:, None] * stride + channel[None, :], mask, 0.0).to(DTYPE)


@triton.jit
def _store(ptr, index, valid, stride, channel, value, DIM: tl.constexpr, ADD: tl.constexpr):
    """Store rows of channels, or add to them: each row has one program."""
    mask = valid[:, None] & (channel < DIM)[None, :]
    where = ptr + index[:, None] * stride + channel[None, :]
    if ADD:
        value += tl.load(where, mask, 0.0)
    tl.store(where, value.to(ptr.dtype.element_ty), mask)


@triton.jit
def _samples(samples_ptr, weights_ptr, places_ptr, place, samples, k_first):
    """Return indices of samples, log2 of their weights (-inf beyond the last), and places in the sorted keys."""
    valid = place < samples
    index = tl.load(samples_ptr + place, valid, 0).to(tl.int64) + k_first
    weight = tl.load(weights_ptr + place, valid, float("-inf"))
    return index, weight, tl.load(places_ptr + place, valid, -1), valid


@triton.jit
def _online(acc, top, total, logits, v, PRECISION: tl.constexpr):
    """Take logits (Q, K), base 2, and values (K, D) into a running softmax."""
    higher = tl.maximum(top, tl.max(logits, 1))
    # A block of keys may be empty: no maximum yet.
    safe = tl.where(higher == float("-inf"), 0.0, higher)
    shares = tl.exp2(logits - safe[:, None])
    shrink = tl.exp2(top - safe)
    acc = acc * shrink[:, None] + tl.dot(shares.to(v.dtype), v, input_precision=PRECISION)
    return acc, higher, total * shrink + tl.sum(shares, 1)


@triton.jit(do_not_specialize=_LENGTHS)
def _forward_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, order_ptr, samples_ptr, weights_ptr, places_ptr,
    heads, q_b, q_h, q_l, k_b, k_h, k_l, v_b, v_h, v_l, o_b, o_h, o_l,
    length, keys, q_size, k_size, samples, order_row, lse_row, place, q_first, k_first, scale,
    DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    EXACT: tl.constexpr, MERGE: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attend: queries of one block to its keys and the samples."""
    head = tl.program_id(1)
    tiles = tl.cdiv(q_size, BLOCK_Q)
    block = tl.program_id(0) // tiles
    tile = (tl.program_id(0) % tiles) * BLOCK_Q
    channel = tl.arange(0, BLOCK_D)
    queries = tile + tl.arange(0, BLOCK_Q)
    q_place = block * q_size + queries
    q_valid = (queries < q_size) & (q_place < length)
    q_order = order_ptr + head.to(tl.int64) * order_row + place
    k_order = q_order + length
    row = _tokens(q_order, q_place, q_valid, q_first, not EXACT)
    k_head = _head(k_ptr, head, heads, k_b, k_h)
    v_head = _head(v_ptr, head, heads, v_b, v_h)
    q = _load(_head(q_ptr, head, heads, q_b, q_h), row, q_valid, q_l, channel, DIM, DTYPE)
    acc = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    top = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    own = tl.minimum(k_size, keys - block * k_size)
    stop = tl.minimum(own, tile + BLOCK_Q) if EXACT else own
    for start in range(0, stop, BLOCK_K):
        key = start + tl.arange(0, BLOCK_K)
        valid = key < own
        column = _tokens(k_order, block * k_size + key, valid, k_first, not EXACT)
        k = _load(k_head, column, valid, k_l, channel, DIM, DTYPE)
        v = _load(v_head, column, valid, v_l, channel, DIM, DTYPE)
        logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * LOG2E)
        seen = valid[None, :]
        if EXACT:
            seen = seen & (key[None, :] <= queries[:, None])
        acc, top, total = _online(acc, top, total, tl.where(seen, logits, float("-inf")), v, PRECISION)
    places_head = places_ptr + head.to(tl.int64) * samples
    for start in range(0, samples, BLOCK_K):
        sample = start + tl.arange(0, BLOCK_K)
        column, weight, k_place, valid = _samples(samples_ptr, weights_ptr, places_head, sample, samples, k_first)
        k = _load(k_head, column, valid, k_l, channel, DIM, DTYPE)
        v = _load(v_head, column, valid, v_l, channel, DIM, DTYPE)
        weight = tl.where(k_place // k_size == block, float("-inf"), weight)
        logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * LOG2E) + weight[None, :]
        acc, top, total = _online(acc, top, total, logits, v, PRECISION)
    acc = acc / total[:, None]
    sums = top + tl.log2(total)
    lse_head = lse_ptr + head.to(tl.int64) * lse_row
    out_head = _head(out_ptr, head, heads, o_b, o_h)
    if MERGE:
        before = tl.load(lse_head + row, q_valid, 0.0) * LOG2E
        higher = tl.maximum(before, sums)
        both = higher + tl.log2(tl.exp2(before - higher) + tl.exp2(sums - higher))
        earlier = _load(out_head, row, q_valid, o_l, channel, DIM, tl.float32)
        acc = acc * tl.exp2(sums - both)[:, None] + earlier * tl.exp2(before - both)[:, None]
        sums = both
    _store(out_head, row, q_valid, o_l, channel, acc, DIM, False)
    tl.store(lse_head + row, sums / LOG2E, q_valid)


@triton.jit(do_not_specialize=_LENGTHS)
def _query_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, grad_ptr, dq_ptr, lse_ptr, delta_ptr, order_ptr, samples_ptr, weights_ptr, places_ptr,
    heads, q_b, q_h, q_l, k_b, k_h, k_l, v_b, v_h, v_l, o_b, o_h, o_l, g_b, g_h, g_l, dq_b, dq_h, dq_l,
    length, keys, q_size, k_size, samples, order_row, lse_row, place, q_first, k_first, scale,
    DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    EXACT: tl.constexpr, MERGE: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Take gradients to queries, as the forward goes, and leave grad · out of each query for the other kernels."""
    head = tl.program_id(1)
    tiles = tl.cdiv(q_size, BLOCK_Q)
    block = tl.program_id(0) // tiles
    tile = (tl.program_id(0) % tiles) * BLOCK_Q
    channel = tl.arange(0, BLOCK_D)
    queries = tile + tl.arange(0, BLOCK_Q)
    q_place = block * q_size + queries
    q_valid = (queries < q_size) & (q_place < length)
    q_order = order_ptr + head.to(tl.int64) * order_row + place
    k_order = q_order + length
    row = _tokens(q_order, q_place, q_valid, q_first, not EXACT)
    k_head = _head(k_ptr, head, heads, k_b, k_h)
    v_head = _head(v_ptr, head, heads, v_b, v_h)
    q = _load(_head(q_ptr, head, heads, q_b, q_h), row, q_valid, q_l, channel, DIM, DTYPE)
    grad = _load(_head(grad_ptr, head, heads, g_b, g_h), row, q_valid, g_l, channel, DIM, DTYPE)
    out = _load(_head(out_ptr, head, heads, o_b, o_h), row, q_valid, o_l, channel, DIM, tl.float32)
    delta = tl.sum(out * grad.to(tl.float32), 1)
    lse_head = head.to(tl.int64) * lse_row
    tl.store(delta_ptr + lse_head + row, delta, q_valid)
    sums = tl.load(lse_ptr + lse_head + row, q_valid, 0.0) * LOG2E
    dq = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    own = tl.minimum(k_size, keys - block * k_size)
    stop = tl.minimum(own, tile + BLOCK_Q) if EXACT else own
    for start in range(0, stop, BLOCK_K):
        key = start + tl.arange(0, BLOCK_K)
        valid = key < own
        column = _tokens(k_order, block * k_size + key, valid, k_first, not EXACT)
        k = _load(k_head, column, valid, k_l, channel, DIM, DTYPE)
        v = _load(v_head, column, valid, v_l, channel, DIM, DTYPE)
        logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * LOG2E)
        seen = valid[None, :]
        if EXACT:
            seen = seen & (key[None, :] <= queries[:, None])
        shares = tl.exp2(tl.where(seen, logits, float("-inf")) - sums[:, None])
        slopes = shares * (tl.dot(grad, tl.trans(v), input_precision=PRECISION) - delta[:, None])
        dq += tl.dot(slopes.to(DTYPE), k, input_precision=PRECISION)
    places_head = places_ptr + head.to(tl.int64) * samples
    for start in range(0, samples, BLOCK_K):
        sample = start + tl.arange(0, BLOCK_K)
        column, weight, k_place, valid = _samples(samples_ptr, weights_ptr, places_head, sample, samples, k_first)
        k = _load(k_head, column, valid, k_l, channel, DIM, DTYPE)
        v = _load(v_head, column, valid, v_l, channel, DIM, DTYPE)
        weight = tl.where(k_place // k_size == block, float("-inf"), weight)
        logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * LOG2E) + weight[None, :]
        shares = tl.exp2(logits - sums[:, None])
        slopes = shares * (tl.dot(grad, tl.trans(v), input_precision=PRECISION) - delta[:, None])
        dq += tl.dot(slopes.to(DTYPE), k, input_precision=PRECISION)
    _store(_head(dq_ptr, head, heads, dq_b, dq_h), row, q_valid, dq_l, channel, dq * scale, DIM, MERGE)


@triton.jit
def _key_step(dk, dv, k, v, q, grad, bias, seen, sums, delta, scale, PRECISION: tl.constexpr):
    """Add to gradients (K, D) of keys and values what some queries give."""
    logits = tl.dot(k, tl.trans(q), input_precision=PRECISION) * (scale * LOG2E) + bias[:, None]
    shares = tl.exp2(tl.where(seen, logits, float("-inf")) - sums[None, :])
    dv += tl.dot(shares.to(grad.dtype), grad, input_precision=PRECISION)
    slopes = shares * (tl.dot(v, tl.trans(grad), input_precision=PRECISION) - delta[None, :])
    dk += tl.dot(slopes.to(q.dtype), q, input_precision=PRECISION)
    return dk, dv


@triton.jit(do_not_specialize=_LENGTHS)
def _sample_kernel(
    q_ptr, k_ptr, v_ptr, grad_ptr, dk_ptr, dv_ptr, lse_ptr, delta_ptr, order_ptr, samples_ptr, weights_ptr, places_ptr,
    heads, q_b, q_h, q_l, k_b, k_h, k_l, v_b, v_h, v_l, g_b, g_h, g_l,
    length, q_size, k_size, samples, run, order_row, lse_row, place, q_first, k_first, scale,
    DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    DTYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Sum over one run of queries the gradients of samples: dk and dv (runs, B·H, samples, D)."""
    head = tl.program_id(2)
    channel = tl.arange(0, BLOCK_D)
    sample = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    column, weight, k_place, valid = _samples(
        samples_ptr, weights_ptr, places_ptr + head.to(tl.int64) * samples, sample, samples, k_first
    )
    k = _load(_head(k_ptr, head, heads, k_b, k_h), column, valid, k_l, channel, DIM, DTYPE)
    v = _load(_head(v_ptr, head, heads, v_b, v_h), column, valid, v_l, channel, DIM, DTYPE)
    q_head = _head(q_ptr, head, heads, q_b, q_h)
    g_head = _head(grad_ptr, head, heads, g_b, g_h)
    q_order = order_ptr + head.to(tl.int64) * order_row + place
    lse_head = head.to(tl.int64) * lse_row
    dk = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    first = tl.program_id(1) * run
    for start in range(first, tl.minimum(first + run, length), BLOCK_Q):
        q_place = start + tl.arange(0, BLOCK_Q)
        q_valid = (q_place < length) & (q_place < first + run)
        row = _tokens(q_order, q_place, q_valid, q_first, True)
        q = _load(q_head, row, q_valid, q_l, channel, DIM, DTYPE)
        grad = _load(g_head, row, q_valid, g_l, channel, DIM, DTYPE)
        sums = tl.load(lse_ptr + lse_head + row, q_valid, 0.0) * LOG2E
        delta = tl.load(delta_ptr + lse_head + row, q_valid, 0.0)
        seen = (k_place // k_size)[:, None] != (q_place // q_size)[None, :]
        dk, dv = _key_step(dk, dv, k, v, q, grad, weight, seen, sums, delta, scale, PRECISION)
    there = (tl.program_id(1).to(tl.int64) * tl.num_programs(2) + head) * samples + sample
    _store(dk_ptr, there, valid, DIM, channel, dk * scale, DIM, False)
    _store(dv_ptr, there, valid, DIM, channel, dv, DIM, False)


@triton.jit(do_not_specialize=_LENGTHS)
def _key_kernel(
    q_ptr, k_ptr, v_ptr, grad_ptr, dk_ptr, dv_ptr, dk_samples_ptr, dv_samples_ptr,
    lse_ptr, delta_ptr, order_ptr, samples_ptr,
    heads, q_b, q_h, q_l, k_b, k_h, k_l, v_b, v_h, v_l, g_b, g_h, g_l, dk_b, dk_h, dk_l, dv_b, dv_h, dv_l,
    length, keys, q_size, k_size, samples, order_row, lse_row, place, q_first, k_first, scale,
    DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    EXACT: tl.constexpr, MERGE: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Take gradients to keys and values of one block from its queries, and add those they have as samples."""
    head = tl.program_id(1)
    tiles = tl.cdiv(k_size, BLOCK_K)
    block = tl.program_id(0) // tiles
    tile = (tl.program_id(0) % tiles) * BLOCK_K
    channel = tl.arange(0, BLOCK_D)
    key = tile + tl.arange(0, BLOCK_K)
    k_place = block * k_size + key
    valid = (key < k_size) & (k_place < keys)
    q_order = order_ptr + head.to(tl.int64) * order_row + place
    k_order = q_order + length
    column = _tokens(k_order, k_place, valid, k_first, not EXACT)
    k = _load(_head(k_ptr, head, heads, k_b, k_h), column, valid, k_l, channel, DIM, DTYPE)
    v = _load(_head(v_ptr, head, heads, v_b, v_h), column, valid, v_l, channel, DIM, DTYPE)
    q_head = _head(q_ptr, head, heads, q_b, q_h)
    g_head = _head(grad_ptr, head, heads, g_b, g_h)
    lse_head = head.to(tl.int64) * lse_row
    dk = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    bias = tl.where(valid, 0.0, float("-inf"))
    own = tl.minimum(q_size, length - block * q_size)
    first = tile // BLOCK_Q * BLOCK_Q if EXACT else 0
    for start in range(first, own, BLOCK_Q):
        queries = start + tl.arange(0, BLOCK_Q)
        q_valid = queries < own
        row = _tokens(q_order, block * q_size + queries, q_valid, q_first, not EXACT)
        q = _load(q_head, row, q_valid, q_l, channel, DIM, DTYPE)
        grad = _load(g_head, row, q_valid, g_l, channel, DIM, DTYPE)
        sums = tl.load(lse_ptr + lse_head + row, q_valid, 0.0) * LOG2E
        delta = tl.load(delta_ptr + lse_head + row, q_valid, 0.0)
        seen = q_valid[None, :]
        if EXACT:
            seen = seen & (key[:, None] <= queries[None, :])
        dk, dv = _key_step(dk, dv, k, v, q, grad, bias, seen, sums, delta, scale, PRECISION)
    dk *= scale
    if not EXACT:
        # The run of keys that a key lies in has one sample; is it this key?
        number = column - k_first
        slot = tl.maximum(((number + 1) * samples - 1) // keys, 0)
        drawn = valid & (tl.load(samples_ptr + slot, valid, -1).to(tl.int64) == number)
        there = head.to(tl.int64) * samples + slot
        dk += _load(dk_samples_ptr, there, drawn, DIM, channel, DIM, tl.float32)
        dv += _load(dv_samples_ptr, there, drawn, DIM, channel, DIM, tl.float32)
    _store(_head(dk_ptr, head, heads, dk_b, dk_h), column, valid, dk_l, channel, dk, DIM, MERGE)
    _store(_head(dv_ptr, head, heads, dv_b, dv_h), column, valid, dv_l, channel, dv, DIM, MERGE)


@dataclass(frozen=True)
class Config:
    """Sizes of a kernel's tiles and how it runs."""

    queries: int
    keys: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Configs:
    """One :class:`Config` for each kernel."""

    forward: Config
    query: Config
    sample: Config
    key: Config


HALF = Configs(Config(64, 32, 4, 2), Config(64, 64, 8, 2), Config(64, 64, 8, 2), Config(32, 64, 8, 2))
"""For bf16 and fp16. No size here spills registers."""
HOPPER = Configs(Config(128, 64, 8, 3), Config(128, 64, 8, 2), Config(32, 64, 4, 2), HALF.key)
"""The same for capability 9, as measured on an H200 (kernels/benchmarks/gpu_hyper.py)."""
SINGLE = Configs(Config(16, 32, 8, 1), Config(16, 16, 8, 1), Config(32, 16, 8, 1), Config(32, 16, 8, 1))
"""For fp32, whose products on tensor cores take many registers."""


def configs_for(dtype: torch.dtype, capability: int) -> Configs:
    """Choose sizes for a dtype and a device's major compute capability."""
    if dtype == torch.float32:
        return SINGLE
    return HOPPER if capability == 9 else HALF


@dataclass(frozen=True)
class _Call:
    """What the kernels of one part share.

    Attributes:
        q: ``(B, H, L, D)``.
        k: ``(B, H, S, D)``.
        v: ``(B, H, S, D)``.
        order: ``(B, H, P)``.
        part: Which tokens.
        options: All else that was asked for.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    order: Tensor
    part: Part
    options: Options

    @property
    def sequences(self) -> int:
        """B · H."""
        return self.q.shape[0] * self.q.shape[1]

    def samples(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return indices, weights (base 2) and places in the sorted keys, of samples."""
        if self.part.seed is None:
            return (self.order,) * 3  # never read
        samples, weights = plan.sampled(self.part, torch.float32, self.q.device, base=2)
        return samples, weights, plan.sample_places(self.part.orders(self.order)[1], samples).contiguous()

    def numbers(self) -> dict[str, int | float]:
        """Return the sizes that kernels take."""
        part = self.part
        return {
            "heads": self.q.shape[1],
            "length": part.length,
            "q_size": part.q_size,
            "k_size": part.k_size,
            "samples": part.samples,
            "order_row": self.order.shape[2],
            "lse_row": self.q.shape[2],
            "place": part.place,
            "q_first": part.q_start,
            "k_first": part.k_start,
            "scale": self.options.scale,
        }

    def constants(self, config: Config) -> dict[str, Any]:
        """Return what kernels are compiled for."""
        dtype = self.q.dtype
        return {
            "DIM": self.q.shape[3],
            "BLOCK_D": max(16, triton.next_power_of_2(self.q.shape[3])),
            "BLOCK_Q": config.queries,
            "BLOCK_K": config.keys,
            # The interpreter's products of bf16 are wrong.
            "DTYPE": tl.float32 if _INTERPRETED else _DTYPES[dtype],
            "PRECISION": "tf32x3" if dtype == torch.float32 else "ieee",
            "num_warps": config.warps,
            "num_stages": config.stages,
        }


_INTERPRETED = not isinstance(_forward_kernel, triton.runtime.JITFunction)
_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def sort(q: Tensor, k: Tensor, options: Options) -> Tensor:
    """Sort queries and keys; same as :func:`xt_kernels.hyper_attention.plain.sort`."""
    q, k = _dense(q), _dense(k)
    parts = plan.parts(q.shape[2], k.shape[2], options)
    order = q.new_empty(*q.shape[:2], plan.order_length(parts), dtype=torch.int32)
    for part in parts:
        if part.seed is not None:
            directions = plan.projections(q.shape[3], options, part.seed, torch.float32, q.device)
            for x, first, into in zip((q, k), (part.q_start, part.k_start), part.orders(order), strict=True):
                into.copy_(_ranks(x, directions, first, into.shape[2]).argsort(dim=-1, stable=True))
    return order


def attend(
    q: Tensor, k: Tensor, v: Tensor, order: Tensor, options: Options, configs: Configs | None = None
) -> tuple[Tensor, Tensor]:
    """Attend, given the order; same as :func:`xt_kernels.hyper_attention.plain.attend`."""
    q, k, v = (_dense(x) for x in (q, k, v))
    parts = plan.parts(q.shape[2], k.shape[2], options)
    # Parts add up in fp32.
    out = _like(q, torch.float32 if len(parts) > 1 else q.dtype)
    lse = q.new_empty(q.shape[:3], dtype=torch.float32)
    config = (configs or _configs(q)).forward
    for part in parts:
        call = _Call(q, k, v, order, part, options)
        tiles = part.blocks * triton.cdiv(part.q_size, config.queries)
        _forward_kernel[(tiles, call.sequences)](
            *(q, k, v, out, lse, order, *call.samples()),
            **_strides(q=q, k=k, v=v, o=out),
            **call.numbers(),
            keys=part.keys,
            EXACT=part.seed is None,
            MERGE=options.causal and part.seed is not None,
            **call.constants(config),
        )
    return out.to(q.dtype), lse


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    order: Tensor,
    options: Options,
    configs: Configs | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Take gradients; same as :func:`xt_kernels.hyper_attention.plain.backward`."""
    grad, q, k, v, out = (_dense(x) for x in (grad, q, k, v, out))
    parts = plan.parts(q.shape[2], k.shape[2], options)
    several = len(parts) > 1
    grads = [_like(x, torch.float32 if several else x.dtype) for x in (q, k, v)]
    if several:
        for each in grads:
            each.zero_()
    delta = torch.empty_like(lse)
    for part in parts:
        call = _Call(q, k, v, order, part, options)
        _part_backward(call, grad, out, lse, delta, grads, configs or _configs(q), several)
    dq, dk, dv = (each.to(q.dtype) for each in grads)
    return dq, dk, dv


def _part_backward(
    call: _Call,
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    delta: Tensor,
    grads: list[Tensor],
    configs: Configs,
    several: bool,
) -> None:
    q, k, v, part = call.q, call.k, call.v, call.part
    dq, dk, dv = grads
    samples = call.samples()
    read = (lse, delta, call.order)
    common = {"EXACT": part.seed is None, "MERGE": several, "keys": part.keys}
    config = configs.query
    _query_kernel[(part.blocks * triton.cdiv(part.q_size, config.queries), call.sequences)](
        *(q, k, v, out, grad, dq, *read, *samples),
        **_strides(q=q, k=k, v=v, o=out, g=grad, dq=dq),
        **(common | call.numbers() | call.constants(config)),
    )
    sums = (lse, lse)  # never read
    if part.samples:
        config = configs.sample
        runs = max(1, min(_RUNS, part.length // _RUN))
        partial = [lse.new_empty(runs, call.sequences, part.samples, q.shape[3]) for _ in range(2)]
        _sample_kernel[(triton.cdiv(part.samples, config.keys), runs, call.sequences)](
            *(q, k, v, grad, *partial, *read, *samples),
            **_strides(q=q, k=k, v=v, g=grad),
            **call.numbers(),
            run=triton.cdiv(part.length, runs),
            **call.constants(config),
        )
        sums = (partial[0].sum(0), partial[1].sum(0))
    config = configs.key
    _key_kernel[(part.blocks * triton.cdiv(part.k_size, config.keys), call.sequences)](
        *(q, k, v, grad, dk, dv, *sums, *read, samples[0]),
        **_strides(q=q, k=k, v=v, g=grad, dk=dk, dv=dv),
        **(common | call.numbers() | call.constants(config)),
    )


_RUNS = 32
"""Runs of queries that are summed apart for each sample, at most."""
_RUN = 1024
"""Queries of a run, at least."""


def _ranks(x: Tensor, directions: Tensor, first: int, rows: int) -> Tensor:
    batch, heads, _, dim = x.shape
    rank = x.new_empty(batch, heads, rows, dtype=torch.uint8 if len(directions) <= 8 else torch.int32)
    _hash_kernel[(triton.cdiv(rows, _HASHED), batch * heads)](
        *(x, directions, rank, heads, *x.stride()[:3], first, rows),
        DIM=dim,
        BLOCK_D=max(16, triton.next_power_of_2(dim)),
        PROJECTIONS=len(directions),
        ROWS=_HASHED,
    )
    return rank


_HASHED = 64
"""Tokens that one program hashes."""


def _configs(q: Tensor) -> Configs:
    return configs_for(q.dtype, torch.cuda.get_device_capability(q.device)[0] if q.is_cuda else 0)


def _dense(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _like(x: Tensor, dtype: torch.dtype) -> Tensor:
    batch, heads, length, dim = x.shape
    return x.new_empty(batch, length, heads, dim, dtype=dtype).transpose(1, 2)


def _strides(**tensors: Tensor) -> dict[str, int]:
    return {f"{name}_{axis}": x.stride(i) for name, x in tensors.items() for i, axis in enumerate("bhl")}
