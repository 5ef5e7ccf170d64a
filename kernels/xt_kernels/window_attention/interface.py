"""Validates, dispatches and documents window attention."""

from torch import Tensor

from xt_kernels import dispatch
from xt_kernels.window_attention import ops, portable, reference

BACKENDS = ops.BACKENDS | {"reference": reference.BACKEND, dispatch.PORTABLE: portable.BACKEND}
"""Best first."""


def window_attention(
    qkv: Tensor,
    scale: Tensor,
    bias: Tensor,
    masks: Tensor | None = None,
    kinds: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Scaled cosine attention inside windows (Swin Transformer V2, arXiv 2111.09883, section 3.3).

    ``softmax(scale · cos(q, k) + bias + mask) v`` for each window and head.

    Args:
        qkv: Queries, keys and values, ``(W, N, 3, H, D)``: windows, tokens in each, heads, channels of a head.
        scale: ``(H,)``.
        bias: ``(H, N, N)``, for all windows.
        masks: ``(K, N, N)``, the distinct masks of shifted windows; they get no gradient.
        kinds: Integers ``(M,)``, M divides W: window w has ``masks[kinds[w % M] - 1]``, or no mask where the kind is 0.
        backend: ``"reference"``, ``"blocked"``, ``"triton"`` or ``"portable"``; by default ``XT_BACKEND``, then the
            fastest for the device.

    Returns:
        ``(W, N, H, D)`` in the dtype of ``qkv``.

    Raises:
        ValueError: If shapes, dtypes or devices do not fit, on a CPU if a kind has no mask, or if the backend is
            unknown or cannot take the tensors.
    """
    _check(qkv, scale, bias, masks, kinds)
    return dispatch.call("window_attention", BACKENDS, backend, qkv, scale, bias, masks, kinds)


def _check(qkv: Tensor, scale: Tensor, bias: Tensor, masks: Tensor | None, kinds: Tensor | None) -> None:
    if qkv.ndim != 5 or qkv.shape[2] != 3 or not qkv.numel():
        raise ValueError(f"window_attention: qkv is {tuple(qkv.shape)}; it must be (W, N, 3, H, D) with no size of 0")
    windows, tokens, _, heads, _ = qkv.shape
    if (masks is None) != (kinds is None):
        raise ValueError("window_attention: masks and kinds must be given together")
    if masks is not None and kinds is not None:
        if kinds.ndim != 1 or not len(kinds) or windows % len(kinds) or kinds.is_floating_point():
            raise ValueError(
                f"window_attention: kinds is {kinds.dtype} {tuple(kinds.shape)}; it must be integers (M,), and M must "
                f"divide the {windows} windows"
            )
        if masks.ndim != 3 or not len(masks):
            raise ValueError(f"window_attention: masks is {tuple(masks.shape)}; it must be (K, N, N) with K at least 1")
    checked = {
        "scale": (scale, (heads,)),
        "bias": (bias, (heads, tokens, tokens)),
        "masks": (masks, (0 if masks is None else len(masks), tokens, tokens)),
    }
    for name, (tensor, shape) in {"qkv": (qkv, tuple(qkv.shape)), **checked}.items():
        if tensor is None:
            continue
        if tensor.shape != shape:
            raise ValueError(
                f"window_attention: {name} is {tuple(tensor.shape)}; with qkv {tuple(qkv.shape)} it must be {shape}"
            )
        if not tensor.is_floating_point() or tensor.device != qkv.device:
            raise ValueError(
                f"window_attention: {name} is {tensor.dtype} on {tensor.device}; it must be of floating point and on "
                f"{qkv.device} as qkv"
            )
