"""Exact attention: what HyperAttention estimates, and equals below ``min_seq_len``."""

import torch
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> Tensor:
    """Softmax attention, materialised.

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
