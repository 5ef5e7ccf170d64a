"""Validates, dispatches and documents HyperAttention."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from xt_kernels import dispatch
from xt_kernels.dispatch import Backend, missing
from xt_kernels.hyper_attention import op, portable, reference
from xt_kernels.hyper_attention.plan import Options


def _attend(backend: str, q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
    if max(q.shape[2], k.shape[2]) <= options.min_seq_len:
        return F.scaled_dot_product_attention(q, k, v, is_causal=options.causal, scale=options.scale)
    return op.hyper_attention(q, k, v, options, backend)


def _triton_refuses(q: Tensor, k: Tensor, v: Tensor, options: Options) -> str | None:
    if q.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"takes float32, bfloat16 and float16, not {q.dtype}"
    if q.shape[-1] > 128:
        return f"takes heads of 128 channels at most, not {q.shape[-1]}"
    if q.shape[0] * q.shape[1] > 65535:
        return f"takes 65535 sequences at most, not {q.shape[0] * q.shape[1]}"
    return missing("triton")


BACKENDS = {
    "triton": Backend(partial(_attend, "triton"), _triton_refuses, ("cuda",), opaque=True),
    "plain": Backend(partial(_attend, "plain"), opaque=True),
    "reference": reference.BACKEND,
    dispatch.PORTABLE: portable.BACKEND,
}
"""Best first."""


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
    taper: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Near-linear attention (HyperAttention, arXiv 2310.05869); exact up to ``min_seq_len`` keys.

    ``causal`` keeps later keys and values out: none is ever attended to. But beyond ``min_seq_len`` it is not strictly
    causal, here as in the released code of xT: queries are sorted together, so a later query can move an earlier one
    into another block, where the estimate of the same attention differs. Do not use it to generate token by token.

    Args:
        q: ``(B, H, L, D)``.
        k: ``(B, H, S, D)``; S differs from L only without a causal mask.
        v: ``(B, H, S, D)``.
        causal: Mask later keys; see above.
        block_size: Keys attended exactly.
        sample_size: Keys sampled for the rest; more is closer to exact attention.
        num_projections: Bits of the hash that sorts queries and keys.
        min_seq_len: Up to so many keys attention is exact.
        scale: Factor of the logits, ``D ** -0.5`` by default.
        seed: Of projections and samples, 0 by default: the same input gives the same output.
        taper: Sample ``min_seq_len² / S`` keys where that is more than ``sample_size``, so that the error grows from 0
            beyond ``min_seq_len``, without a jump, and a longer sequence never costs less than a shorter one.
        backend: ``"plain"``, ``"reference"`` or ``"portable"``; by default ``XT_BACKEND``, then the fastest for the
            device.

    Returns:
        ``(B, H, L, D)`` in the dtype of ``q``.

    Raises:
        ValueError: If shapes, dtypes or devices do not fit, an option is not positive, or the backend is unknown or
            cannot take the tensors.
    """
    _check(q, k, v, causal)
    options = {
        "block_size": block_size,
        "sample_size": sample_size,
        "num_projections": num_projections,
        "min_seq_len": min_seq_len,
    }
    for name, value in options.items():
        if value < 1 or value != int(value):
            raise ValueError(f"hyper_attention: {name} is {value}; it must be a whole number and at least 1")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    wanted = Options(causal, block_size, sample_size, num_projections, min_seq_len, scale, seed or 0, taper)
    return dispatch.call("hyper_attention", BACKENDS, backend, q, k, v, wanted)


def _check(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> None:
    if any(x.ndim != 4 or not x.numel() for x in (q, k, v)):
        raise ValueError(
            f"hyper_attention: q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)} must be (B, H, L, D) with "
            "no size of 0"
        )
    if k.shape != v.shape or q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3]:
        raise ValueError(
            f"hyper_attention: q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)} do not fit; only the "
            "lengths of q and of k and v may differ"
        )
    if causal and q.shape != k.shape:
        raise ValueError(
            f"hyper_attention: with a causal mask q {tuple(q.shape)} and k {tuple(k.shape)} must be of one length"
        )
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not x.is_floating_point() or x.dtype != q.dtype or x.device != q.device:
            raise ValueError(
                f"hyper_attention: {name} is {x.dtype} on {x.device}; all must have one dtype of floating point and be "
                f"on one device, as q: {q.dtype} on {q.device}"
            )
