"""Validates, dispatches and documents HyperAttention."""

import torch.nn.functional as F
from torch import Tensor

from xt_kernels import dispatch
from xt_kernels.hyper_attention import plain, reference

BACKENDS = ("plain", "reference")


def hyper_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    block_size: int = 256,
    sample_size: int = 256,
    num_projections: int = 7,
    min_seq_len: int = 4096,
    scale: float | None = None,
    seed: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """Near-linear attention (HyperAttention, arXiv 2310.05869); exact up to ``min_seq_len`` keys.

    Args:
        q: ``(B, H, L, D)``.
        k: ``(B, H, S, D)``; S differs from L only without a causal mask.
        v: ``(B, H, S, D)``.
        causal: Mask later keys.
        block_size: Keys attended exactly.
        sample_size: Keys sampled for the rest; more is closer to exact attention.
        num_projections: Bits of the hash that sorts queries and keys.
        min_seq_len: Up to so many keys attention is exact.
        scale: Factor of the logits, ``D ** -0.5`` by default.
        seed: Of projections and samples, 0 by default: the same input gives the same output.
        backend: ``"plain"``, or ``"reference"``, which is exact attention.

    Returns:
        ``(B, H, L, D)`` in the dtype of ``q``.

    Raises:
        ValueError: If shapes do not fit, an option is not positive, or the backend is unknown.
    """
    if k.shape != v.shape or q.shape[:2] != k.shape[:2] or (causal and q.shape != k.shape):
        raise ValueError(f"hyper_attention: q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)} do not fit")
    if min(block_size, sample_size, num_projections) < 1:
        raise ValueError("hyper_attention: block_size, sample_size and num_projections must be at least 1")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if dispatch.choose("hyper_attention", BACKENDS, backend, default="plain") == "reference":
        return reference.attention(q, k, v, scale, causal)
    if max(q.shape[2], k.shape[2]) <= min_seq_len:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
    seed = 0 if seed is None else seed
    dtype = q.dtype
    if dtype.itemsize < 4:
        q, k, v = q.float(), k.float(), v.float()
    if causal:
        out, _ = plain.causal(q, k, v, scale, block_size, sample_size, num_projections, min_seq_len, seed)
    else:
        out, _ = plain.estimate(q, k, v, scale, block_size, sample_size, num_projections, seed)
    return out.to(dtype)
