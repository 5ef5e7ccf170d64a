"""HyperAttention query by query, from its definition: the oracle. Never optimised.

For each query it lists the keys that count, with the logarithm of their weight, and takes one softmax over the list.
"""

import math

import torch
from torch import Tensor

from xt_kernels.dispatch import Backend
from xt_kernels.hyper_attention.plan import Options

Terms = list[list[tuple[int, float]]]
"""For each query, the keys it attends to and the logarithms of their weights."""


def hyper_attention(q: Tensor, k: Tensor, v: Tensor, wanted: Options) -> Tensor:
    """Attend as HyperAttention does.

    Args:
        q: ``(B, H, L, D)``.
        k: ``(B, H, S, D)``.
        v: ``(B, H, S, D)``.
        wanted: All else.

    Returns:
        ``(B, H, L, D)`` in the dtype of ``q``.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    taper = wanted.min_seq_len if wanted.taper else 0
    options = (wanted.block_size, wanted.sample_size, wanted.num_projections, taper)
    rows = []
    for item in range(q.shape[0]):
        for head in range(q.shape[1]):
            one_q, one_k, one_v = (x[item, head].to(dtype) for x in (q, k, v))
            if wanted.causal:
                terms = _causal(one_q, one_k, *options, wanted.min_seq_len, wanted.seed)
            elif max(len(one_q), len(one_k)) <= wanted.min_seq_len:
                terms = [[(key, 0.0) for key in range(len(one_k))] for _ in one_q]
            else:
                terms = _estimate(one_q, one_k, *options, wanted.seed)
            for query, listed in zip(one_q, terms, strict=True):
                keys = torch.tensor([key for key, _ in listed], device=q.device)
                weights = torch.tensor([weight for _, weight in listed], dtype=dtype, device=q.device)
                rows.append((wanted.scale * one_k[keys] @ query + weights).softmax(0) @ one_v[keys])
    return torch.stack(rows).view(*q.shape[:3], v.shape[-1]).to(q.dtype)


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> Tensor:
    """Exact softmax attention, materialised: what HyperAttention estimates.

    Args:
        q: ``(B, H, L, D)``.
        k: ``(B, H, S, D)``.
        v: ``(B, H, S, D)``.
        scale: Factor of the logits.
        causal: Mask later keys; needs L = S.

    Returns:
        ``(B, H, L, D)``.
    """
    logits = scale * q @ k.transpose(-1, -2)
    if causal:
        future = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(1)
        logits = logits.masked_fill(future, float("-inf"))
    return logits.softmax(-1) @ v


def _causal(
    q: Tensor,
    k: Tensor,
    block_size: int,
    sample_size: int,
    num_projections: int,
    taper: int,
    min_seq_len: int,
    seed: int,
) -> Terms:
    length = len(q)
    if length <= min_seq_len:
        return [[(key, 0.0) for key in range(query + 1)] for query in range(length)]
    half = length // 2
    options = (block_size, sample_size, num_projections, taper)
    first = _causal(q[:half], k[:half], *options, min_seq_len, seed)
    second = _causal(q[half:], k[half:], *options, min_seq_len, seed + 1)
    across = _estimate(q[half:], k[:half], *options, seed + 2)
    for own, earlier in zip(second, across, strict=True):
        own[:] = [*((key + half, weight) for key, weight in own), *earlier]
    return [*first, *second]


def _estimate(
    q: Tensor, k: Tensor, block_size: int, sample_size: int, num_projections: int, taper: int, seed: int
) -> Terms:
    length, keys = len(q), len(k)
    blocks = math.ceil(max(length, keys) / block_size)
    q_size, k_size = math.ceil(length / blocks), math.ceil(keys / blocks)
    projections = torch.randn(q.shape[-1], num_projections, generator=torch.Generator().manual_seed(seed)).to(q)
    q_order, k_order = _sorted(q, projections), _sorted(k, projections)
    samples = []
    number = min(max(sample_size, math.ceil(taper**2 / keys)), keys)
    generator = torch.Generator().manual_seed(seed + 1)
    for i, drawn in enumerate(torch.rand(number, generator=generator, dtype=torch.float64).tolist()):
        # One key stands for each of `number` runs of the keys.
        start, stop = i * keys // number, (i + 1) * keys // number
        samples.append((start + int(drawn * (stop - start)), math.log(stop - start)))
    terms: Terms = [[] for _ in range(length)]
    for place, query in enumerate(q_order):
        block = place // q_size
        own = k_order[block * k_size : (block + 1) * k_size]
        terms[query] += [(key, 0.0) for key in own]
        terms[query] += [(key, weight) for key, weight in samples if key not in own]
    return terms


def _sorted(x: Tensor, projections: Tensor) -> list[int]:
    ranks = []
    for row in x:
        rank, bit = 0, 0
        for sign in (row @ projections > 0).tolist():
            # From Gray code to its rank: each bit is the XOR of all signs up to it.
            bit ^= int(sign)
            rank = 2 * rank + bit
        ranks.append(rank)
    return sorted(range(len(ranks)), key=ranks.__getitem__)


BACKEND = Backend(hyper_attention)
