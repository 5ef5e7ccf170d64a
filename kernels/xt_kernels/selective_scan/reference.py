"""The recurrence, step by step: the oracle. Never optimised."""

import torch
import torch.nn.functional as F
from torch import Tensor

from xt_kernels.dispatch import Backend


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run ``h = exp(Δ A) h + Δ B u``, ``y = (C · h + D u) SiLU(z)``.

    Args:
        u: ``(batch, L, D)``.
        delta: ``(batch, L, D)``.
        A: ``(D, N)``.
        B: ``(batch, L, G, N)``, G divides D.
        C: ``(batch, L, G, N)``.
        D: ``(D,)``.
        z: ``(batch, L, D)``.
        delta_bias: ``(D,)``.
        delta_softplus: Apply softplus to ``delta`` after the bias.
        initial_state: ``(batch, D, N)``.
        reverse: From the last token to the first.

    Returns:
        ``(batch, L, D)`` in the dtype of ``u`` and the last state ``(batch, D, N)`` in fp32, or fp64 for fp64.
    """
    dtype = torch.promote_types(u.dtype, torch.float32)
    batch, length, dim = u.shape
    state = u.new_zeros(batch, dim, A.shape[1], dtype=dtype) if initial_state is None else initial_state.to(dtype)
    repeats = dim // B.shape[2]
    x, step, A, B, C = (each.to(dtype) for each in (u, delta, A, B, C))
    if delta_bias is not None:
        step = step + delta_bias.to(dtype)
    if delta_softplus:
        step = F.softplus(step)
    outputs: list[Tensor] = [step] * length
    for t in reversed(range(length)) if reverse else range(length):
        b, c = B[:, t].repeat_interleave(repeats, 1), C[:, t].repeat_interleave(repeats, 1)
        state = torch.exp(step[:, t, :, None] * A) * state + (step[:, t] * x[:, t])[..., None] * b
        outputs[t] = (state * c).sum(-1)
    y = torch.stack(outputs, dim=1)
    if D is not None:
        y = y + D.to(dtype) * u
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype), state


BACKEND = Backend(selective_scan)
