"""HyperAttention in plain torch."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from xt_kernels.dispatch import Backend

_ROWS = 512


def hyper_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    block_size: int,
    sample_size: int,
    num_projections: int,
    min_seq_len: int,
    scale: float,
    seed: int,
) -> Tensor:
    """Same as :func:`xt_kernels.hyper_attention.reference.hyper_attention`."""
    if max(q.shape[2], k.shape[2]) <= min_seq_len:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
    dtype = q.dtype
    if dtype.itemsize < 4:
        q, k, v = q.float(), k.float(), v.float()
    options = (block_size, sample_size, num_projections)
    if causal:
        out, _ = causal_attention(q, k, v, scale, *options, min_seq_len, seed)
    else:
        out, _ = estimate(q, k, v, scale, *options, seed)
    return out.to(dtype)


def estimate(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    block_size: int,
    sample_size: int,
    num_projections: int,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Attention without a mask from sorted blocks and samples.

    Args:
        q: ``(B, H, L, D)``.
        k: ``(B, H, S, D)``; S may differ from L.
        v: ``(B, H, S, D)``.
        scale: Factor of the logits.
        block_size: Keys in a block, about.
        sample_size: Sampled keys.
        num_projections: Bits of the hash.
        seed: Of projections and samples.

    Returns:
        ``(B, H, L, D)`` and the log-sum-exp ``(B, H, L)`` of the estimated logits.
    """
    length, keys = q.shape[2], k.shape[2]
    blocks = -(-max(length, keys) // block_size)
    generator = torch.Generator().manual_seed(seed)
    projections = torch.randn(q.shape[-1], num_projections, generator=generator).to(q)
    samples = torch.randint(keys, (min(sample_size, keys),), generator=generator).to(q.device)

    with torch.no_grad():
        q_order, k_order = (_bucket(x, projections).argsort(dim=-1, stable=True) for x in (q, k))
        place = torch.empty_like(k_order).scatter_(
            -1, k_order, torch.arange(keys, device=k.device).expand_as(k_order).contiguous()
        )
    q_blocks, _ = _blocks(q, q_order, blocks)
    k_blocks, real = _blocks(k, k_order, blocks)
    v_blocks, _ = _blocks(v, k_order, blocks)
    k_size = k_blocks.shape[3]
    # (B, H, blocks, samples): a sample in the own block is counted there already.
    own = (place[..., samples] // k_size).unsqueeze(2) == torch.arange(blocks, device=q.device)[:, None]
    weight = torch.full_like(own, 0, dtype=q.dtype).add_(float(torch.tensor(keys / len(samples)).log()))
    bias = torch.cat(
        [
            torch.zeros_like(real, dtype=q.dtype).masked_fill(~real, float("-inf")).expand(*weight.shape[:3], k_size),
            weight.masked_fill(own, float("-inf")),
        ],
        dim=-1,
    )
    shape = (*q_blocks.shape[:3], len(samples), q.shape[-1])
    joined_k = torch.cat([k_blocks, k[:, :, samples].unsqueeze(2).expand(shape)], dim=3)
    joined_v = torch.cat([v_blocks, v[:, :, samples].unsqueeze(2).expand(shape)], dim=3)
    out, lse = _softmax(q_blocks, joined_k, joined_v, bias.unsqueeze(3), scale)
    back = q_order.argsort(-1)
    out = out.flatten(2, 3)[:, :, :length].gather(2, back.unsqueeze(-1).expand(*back.shape, out.shape[-1]))
    return out, lse.flatten(2, 3)[:, :, :length].gather(2, back)


def exact(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """Exact attention with its log-sum-exp, a few hundred rows at a time."""
    outputs, sums = [], []
    for start in range(0, q.shape[2], _ROWS):
        rows = slice(start, start + _ROWS)
        stop = min(start + _ROWS, q.shape[2]) if causal else k.shape[2]
        bias = q.new_zeros(min(_ROWS, q.shape[2] - start), stop)
        if causal:
            bias = bias.masked_fill(torch.ones_like(bias, dtype=torch.bool).triu(start + 1), float("-inf"))
        arguments = (q[:, :, rows], k[:, :, :stop], v[:, :, :stop], bias, scale)
        if torch.is_grad_enabled():
            out, lse = checkpoint(_softmax, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            out, lse = _softmax(*arguments)
        outputs.append(out)
        sums.append(lse)
    return torch.cat(outputs, 2), torch.cat(sums, 2)


def causal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    block_size: int,
    sample_size: int,
    num_projections: int,
    min_seq_len: int,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Causal attention by halving with its log-sum-exp; exact at ``min_seq_len`` and below."""
    length = q.shape[2]
    if length <= min_seq_len:
        return exact(q, k, v, scale, causal=True)
    half = length // 2
    options = (block_size, sample_size, num_projections)
    (q1, q2), (k1, k2), (v1, v2) = ((x[:, :, :half], x[:, :, half:]) for x in (q, k, v))
    first, first_lse = causal_attention(q1, k1, v1, scale, *options, min_seq_len, seed)
    second = causal_attention(q2, k2, v2, scale, *options, min_seq_len, seed + 1)
    across = estimate(q2, k1, v1, scale, *options, seed + 2)
    merged, merged_lse = merge(*second, *across)
    return torch.cat([first, merged], 2), torch.cat([first_lse, merged_lse], 2)


def merge(a: Tensor, a_lse: Tensor, b: Tensor, b_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Merge attention over two sets of keys into attention over both."""
    lse = torch.logaddexp(a_lse, b_lse)
    return (a_lse - lse).exp().unsqueeze(-1) * a + (b_lse - lse).exp().unsqueeze(-1) * b, lse


def _softmax(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    logits = scale * (q @ k.transpose(-1, -2)) + bias
    lse = logits.logsumexp(-1)
    return (logits - lse.unsqueeze(-1)).exp() @ v, lse


def _bucket(x: Tensor, projections: Tensor) -> Tensor:
    bits = (x @ projections > 0).long()
    # Prefix XOR turns the bits, read as a Gray code, into its rank: neighbours differ in one sign.
    rank = bits.cumsum(-1) % 2
    weights = 2 ** torch.arange(projections.shape[1] - 1, -1, -1, device=x.device)
    return (rank * weights).sum(-1)


def _blocks(x: Tensor, order: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
    length = x.shape[2]
    size = -(-length // blocks)
    ordered = x.gather(2, order.unsqueeze(-1).expand(*order.shape, x.shape[-1]))
    padded = F.pad(ordered, (0, 0, 0, blocks * size - length))
    real = torch.arange(blocks * size, device=x.device).view(blocks, size) < length
    return padded.view(*x.shape[:2], blocks, size, x.shape[-1]), real


BACKEND = Backend(hyper_attention)
