"""Softmax attention with its log-sum-exp, and its gradients from those of the whole softmax it is a part of."""

import torch
from torch import Tensor

_ON_CPU = "cpu"
"""The device whose fused kernels give the log-sum-exp and take a mask; elsewhere plain products do."""


def softmax(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Attend.

    Args:
        q: ``(B, L, D)``.
        k: ``(B, S, D)``.
        v: ``(B, S, D)``.
        bias: ``(B, 1, S)``, added to the logits; None for a causal mask, which needs L = S.
        scale: Factor of the logits.

    Returns:
        ``(B, L, D)`` and its log-sum-exp ``(B, L)``.
    """
    if q.device.type == _ON_CPU:
        tensors = (x.unsqueeze(1) for x in (q, k, v))
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *tensors, 0.0, bias is None, attn_mask=_mask(q, bias), scale=scale
        )
        return out.squeeze(1), lse.squeeze(1)
    logits = _logits(q, k, bias, scale)
    lse = logits.logsumexp(-1)
    return (logits - lse.unsqueeze(-1)).exp() @ v, lse


def softmax_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Take the gradient of ``out`` to those of q, k and v.

    ``out (B, L, D)`` and ``lse (B, L)`` may be those of a softmax over more keys than these: the result is then what
    these keys contribute, and gradients through the merging of the parts are contained.
    """
    if q.device.type == _ON_CPU:
        tensors = (x.unsqueeze(1) for x in (grad, q, k, v, out, lse))
        grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *tensors, 0.0, bias is None, attn_mask=_mask(q, bias), scale=scale
        )
        dq, dk, dv = (x.squeeze(1) for x in grads)
        return dq, dk, dv
    shares = (_logits(q, k, bias, scale) - lse.unsqueeze(-1)).exp()
    slopes = shares * (grad @ v.mT - (grad * out).sum(-1, keepdim=True)) * scale
    return slopes @ k, slopes.mT @ q, shares.mT @ grad


def _mask(q: Tensor, bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.unsqueeze(1).expand(-1, -1, q.shape[1], -1)


def _logits(q: Tensor, k: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    logits = scale * (q @ k.mT)
    if bias is None:
        return logits.masked_fill(torch.ones_like(logits[0], dtype=torch.bool).triu(1), -torch.inf)
    return logits + bias
