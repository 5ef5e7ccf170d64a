"""The recurrence, step by step: the oracle. Never optimised."""

import torch
from torch import Tensor


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Run ``h = exp(Δ A) h + Δ B u``, ``y = C · h``.

    Args:
        u: ``(batch, L, D)``.
        delta: ``(batch, L, D)``, after bias and softplus.
        A: ``(D, N)``.
        B: ``(batch, L, G, N)``, G divides D.
        C: ``(batch, L, G, N)``.
        state: ``(batch, D, N)``.

    Returns:
        ``(batch, L, D)`` and the last state.
    """
    repeats = u.shape[2] // B.shape[2]
    outputs = []
    for t in range(u.shape[1]):
        b, c = B[:, t].repeat_interleave(repeats, 1), C[:, t].repeat_interleave(repeats, 1)
        state = torch.exp(delta[:, t, :, None] * A) * state + (delta[:, t] * u[:, t])[..., None] * b
        outputs.append((state * c).sum(-1))
    return torch.stack(outputs, dim=1), state
