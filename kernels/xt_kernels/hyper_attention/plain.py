"""HyperAttention in plain torch: some blocks at a time, each one softmax over its own keys and the sampled ones."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from xt_kernels.hyper_attention import plan
from xt_kernels.hyper_attention.plan import Options, Part
from xt_kernels.hyper_attention.softmax import softmax, softmax_backward

_KEYS = 16384
"""Keys copied at a time, about, those of each block together. More would cost memory, fewer time."""

Buffers = dict[str, Tensor]
"""Memory that tiles use one after the other: new pages for each would cost more than what is copied there."""


def sort(q: Tensor, k: Tensor, options: Options) -> Tensor:
    """Sort queries ``(B, H, L, D)`` and keys ``(B, H, S, D)`` of each estimated part by their hash.

    Returns:
        The order ``(B, H, P)``, out of which :meth:`xt_kernels.hyper_attention.plan.Part.orders` cuts.
    """
    parts = plan.parts(q.shape[2], k.shape[2], options)
    dtype = plan.working(q.dtype)
    order = q.new_empty(*q.shape[:2], plan.order_length(parts), dtype=torch.int32)
    for at in _heads(q):
        for part in parts:
            if part.seed is None:
                continue
            directions = plan.projections(q.shape[-1], options, part.seed, dtype, q.device)
            runs = (q[at][part.q_start :], k[at][part.k_start :])
            for x, into in zip(runs, part.orders(order[at]), strict=True):
                bits = directions @ x[: len(into)].to(dtype).t() > 0
                into.copy_(plan.ranks(bits).argsort(stable=True))
    return order


def attend(q: Tensor, k: Tensor, v: Tensor, order: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """Attend, given the order.

    Returns:
        ``(B, H, L, D)`` and its log-sum-exp ``(B, H, L)``.
    """
    batch, heads, length, dim = q.shape
    dtype = plan.working(q.dtype)
    out = q.new_empty(batch, length, heads, dim).transpose(1, 2)
    lse = q.new_empty(batch, heads, length, dtype=dtype)
    buffers: Buffers = {}
    for at in _heads(q):
        whole = out[at] if dtype == q.dtype else q.new_empty(length, dim, dtype=dtype)
        for part in plan.parts(length, k.shape[2], options):
            _attend((q[at], k[at], v[at]), whole, lse[at], order[at], part, options, buffers)
        if whole.dtype != q.dtype:
            out[at].copy_(whole)
    return out, lse


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, order: Tensor, options: Options
) -> tuple[Tensor, Tensor, Tensor]:
    """Take the gradient of ``out (B, H, L, D)`` to those of q, k and v."""
    batch, heads, length, dim = q.shape
    keys = k.shape[2]
    parts = plan.parts(length, keys, options)
    dtype = plan.working(q.dtype)
    buffers: Buffers = {}
    grads = [q.new_empty(batch, n, heads, dim).transpose(1, 2) for n in (length, keys, keys)]
    for at in _heads(q):
        sums = [each[at].zero_() if dtype == q.dtype else each.new_zeros(each[at].shape, dtype=dtype) for each in grads]
        tensors = (q[at], k[at], v[at], out[at], grad[at])
        for part in parts:
            _attend_backward(tensors, lse[at], order[at], part, options.scale, sums, buffers)
        for each, total in zip(grads, sums, strict=True):
            if total.dtype != each.dtype:
                each[at].copy_(total)
    dq, dk, dv = grads
    return dq, dk, dv


@dataclass
class _Tile:
    """Blocks of queries with the keys of each.

    Attributes:
        rows: Indices ``(c · r,)`` of the queries of c blocks, or their slice.
        columns: Indices ``(c · n,)`` of their keys, or their slice; those of a block itself, then the samples.
        blocks: c.
        samples: How many of the n are samples.
        bias: ``(c, 1, n)``, the logarithms of the keys' weights; None for exact causal attention.
    """

    rows: Tensor | slice
    columns: Tensor | slice
    blocks: int = 1
    samples: int = 0
    bias: Tensor | None = None

    def cut(self, x: Tensor, index: Tensor | slice, dtype: torch.dtype, into: Buffers, name: str) -> Tensor:
        """Take rows out of ``x (L, D)`` as ``(c, ·, D)``, in a buffer of this name."""
        if isinstance(index, slice):
            return x[index].to(dtype).reshape(self.blocks, -1, x.shape[-1])
        if name not in into or len(into[name]) < len(index):
            into[name] = x.new_empty(len(index), x.shape[-1], dtype=dtype)
        found = into[name][: len(index)]
        if x.dtype == dtype:
            torch.index_select(x, 0, index, out=found)
        else:
            found.copy_(x.index_select(0, index))
        return found.view(self.blocks, -1, x.shape[-1])


def _tiles(part: Part, order: Tensor, dtype: torch.dtype) -> Iterator[_Tile]:
    if part.seed is None:
        run = slice(part.q_start, part.q_start + part.length)
        yield _Tile(run, run)
        return
    q_order, k_order = part.orders(order)
    samples, weights = plan.sampled(part, dtype, order.device)
    sample_blocks = plan.sample_places(k_order, samples) // part.k_size
    q_size, k_size = part.q_size, part.k_size
    full = min(part.length // q_size, part.keys // k_size)
    many = max(1, _KEYS // (k_size + part.samples))
    start = 0
    while start * q_size < part.length:
        stop = min(start + many, full) if start < full else start + 1
        rows = q_order[start * q_size : stop * q_size].long() + part.q_start
        own = k_order[start * k_size : stop * k_size].view(stop - start, -1)
        columns = torch.cat([own, samples.int().expand(stop - start, -1)], 1).flatten().long() + part.k_start
        # A sample in the own block is counted there already.
        counted = sample_blocks == torch.arange(start, stop, device=order.device)[:, None]
        bias = torch.cat([torch.zeros_like(own, dtype=dtype), weights.masked_fill(counted, -torch.inf)], 1)
        yield _Tile(rows, columns, stop - start, part.samples, bias.unsqueeze(1))
        start = stop


def _attend(
    tensors: tuple[Tensor, Tensor, Tensor],
    out: Tensor,
    lse: Tensor,
    order: Tensor,
    part: Part,
    options: Options,
    buffers: Buffers,
) -> None:
    q, k, v = tensors
    for tile in _tiles(part, order, lse.dtype):
        some_q = tile.cut(q, tile.rows, lse.dtype, buffers, "q")
        some_k = tile.cut(k, tile.columns, lse.dtype, buffers, "k")
        some_v = tile.cut(v, tile.columns, lse.dtype, buffers, "v")
        mixed, sums = softmax(some_q, some_k, some_v, tile.bias, options.scale)
        mixed, sums = mixed.flatten(0, 1), sums.flatten()
        if options.causal and part.seed is not None:
            before = lse[tile.rows]
            both = torch.logaddexp(before, sums)
            mixed.mul_((sums - both).exp_().unsqueeze(1))
            mixed += out[tile.rows] * (before - both).exp_().unsqueeze(1)
            sums = both
        _put(out, tile.rows, mixed)
        _put(lse, tile.rows, sums)


def _attend_backward(
    tensors: tuple[Tensor, ...],
    lse: Tensor,
    order: Tensor,
    part: Part,
    scale: float,
    grads: list[Tensor],
    buffers: Buffers,
) -> None:
    q, k, v, out, grad = tensors
    sampled = [x.new_zeros(part.samples, x.shape[-1]) for x in grads[1:]]
    for tile in _tiles(part, order, lse.dtype):
        some_q, some_out, some_grad = (
            tile.cut(x, tile.rows, lse.dtype, buffers, name) for x, name in ((q, "q"), (out, "out"), (grad, "grad"))
        )
        some_k = tile.cut(k, tile.columns, lse.dtype, buffers, "k")
        some_v = tile.cut(v, tile.columns, lse.dtype, buffers, "v")
        # Result and sums are those over all parts, so that shares are what they are in the one softmax of a query.
        sums = lse[tile.rows].view(tile.blocks, -1)
        dq, *found = softmax_backward(some_grad, some_q, some_k, some_v, some_out, sums, tile.bias, scale)
        _add(grads[0], tile.rows, dq.flatten(0, 1))
        own = some_k.shape[1] - tile.samples
        columns = tile.columns
        if isinstance(columns, Tensor):
            columns = columns.view(tile.blocks, -1)[:, :own].flatten()
        for total, samples, each in zip(grads[1:], sampled, found, strict=True):
            _add(total, columns, each[:, :own].flatten(0, 1))
            samples += each[:, own:].sum(0)
    if part.samples:
        index = plan.sampled(part, lse.dtype, q.device)[0] + part.k_start
        for total, samples in zip(grads[1:], sampled, strict=True):
            _add(total, index, samples)


def _put(x: Tensor, index: Tensor | slice, value: Tensor) -> None:
    if isinstance(index, slice):
        x[index] = value
    else:
        x.index_copy_(0, index, value)


def _add(x: Tensor, index: Tensor | slice, value: Tensor) -> None:
    # No index comes twice.
    _put(x, index, value.add_(x[index]))


def _heads(q: Tensor) -> Iterator[tuple[int, int]]:
    return ((item, head) for item in range(q.shape[0]) for head in range(q.shape[1]))
