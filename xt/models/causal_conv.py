"""The causal convolution in front of a selective state space: each channel with its own taps, channels last."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable


def convolve(conv: nn.Conv1d, x: Tensor, reverse: bool) -> Tensor:
    """Convolve ``(B, L, D)`` over each token and what came before, or what comes after if ``reverse``.

    Args:
        conv: One group for each channel, padded by one less than its taps.
        x: The tokens.
        reverse: From last to first.
    """
    if _moves_less(x, conv.weight):
        return convolve_piece(conv, x, reverse, None)[0]
    x = x.transpose(1, 2)
    if not reverse:
        causal: Tensor = conv(x)[..., : x.shape[2]]
        return causal.transpose(1, 2)
    taps = conv.weight.flip(-1)
    before = taps.shape[-1] - 1
    return F.conv1d(x, taps, conv.bias, padding=before, groups=len(taps))[..., before:].transpose(1, 2)


def convolve_piece(conv: nn.Conv1d, x: Tensor, reverse: bool, seen: Tensor | None) -> tuple[Tensor, Tensor]:
    """Do what :func:`convolve` does to a segment ``(B, l, D)`` of the sequence.

    Returns:
        The convolved segment and what the next one still sees of it, ``(B, D, taps - 1)``.
    """
    before = conv.kernel_size[0] - 1
    joined = x.new_zeros(x.shape[0], before, x.shape[2]) if seen is None else seen.transpose(1, 2)
    joined = torch.cat([x, joined] if reverse else [joined, x], dim=1)
    near = joined[:, :before] if reverse else joined[:, joined.shape[1] - before :]
    taps = conv.weight.flip(-1) if reverse else conv.weight
    if _moves_less(joined, taps):
        y: Tensor = _Taps.apply(joined, taps, conv.bias)
    else:
        y = F.conv1d(joined.transpose(1, 2), taps, conv.bias, groups=len(taps)).transpose(1, 2)
    # A copy, which does not keep the segment alive.
    return y, near.transpose(1, 2).clone(memory_format=torch.contiguous_format)


def _moves_less(x: Tensor, taps: Tensor) -> bool:
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return False
    return x.dtype == taps.dtype and x.dtype in (torch.float32, torch.float64)


class _Taps(torch.autograd.Function):
    """``y[t] = bias + Σ taps[k] · x[t + k]``, tap by tap, where channels lie.

    The library's convolution on a CPU lays channels out anew and back, and takes several times as long.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
        """Convolve ``(B, l + taps - 1, D)`` with ``(D, 1, taps)``."""
        ctx.save_for_backward(x, taps)
        rows = taps[:, 0].T.contiguous()
        length = x.shape[1] - len(rows) + 1
        y = torch.addcmul(bias, x[:, :length], rows[0])
        for k in range(1, len(rows)):
            y.addcmul_(x[:, k : k + length], rows[k])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of all three."""
        x, taps = ctx.saved_tensors
        rows, of_rows = taps[:, 0].T.contiguous(), []
        length, of_x = grad.shape[1], torch.zeros_like(x)
        for k, row in enumerate(rows):
            of_x[:, k : k + length].addcmul_(grad, row)
            of_rows.append((grad * x[:, k : k + length]).sum((0, 1)))
        return of_x, torch.stack(of_rows, 1)[:, None], grad.sum((0, 1))
