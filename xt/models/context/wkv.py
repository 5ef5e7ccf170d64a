"""The recurrences of RWKV: version 4 (arXiv 2305.13048) and version 6 (arXiv 2404.05892), in chunks.

Steps inside a chunk are taken for all chunks at once, states go from chunk to chunk. All exponents are ≤ 0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from xt.models.context.blocks import recomputed

STEPS = 16
SEGMENT = 1024
"""Tokens whose pairs within chunks are made at a time (version 6)."""


def wkv4(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, state: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
    """Weighted mean ``(Σ e^{k_i − (t − 1 − i) w} v_i + e^{u + k_t} v_t) / (the same without v)``.

    Numerator and denominator are kept times ``e^{−m}``, m the largest exponent so far.

    Args:
        decay: w of each channel ``(D,)``, positive.
        bonus: u of each channel ``(D,)``.
        k: ``(B, L, D)`` in fp32 or fp64, as all others.
        v: ``(B, L, D)``.
        state: Numerator, denominator and m, each ``(B, D)``; None at the start.

    Returns:
        ``(B, L, D)`` and the last state.
    """
    batch, length, dim = k.shape
    if state is None:
        nothing = k.new_zeros(batch, dim)
        state = [nothing, nothing, torch.full_like(nothing, -torch.inf)]
    keys, values = (F.pad(x, (0, 0, 0, -length % STEPS)).view(batch, -1, STEPS, dim) for x in (k, v))
    own = [[values[:, :, 0], torch.ones_like(values[:, :, 0]), keys[:, :, 0]]]
    for t in range(1, STEPS):
        own.append(_join(own[-1], decay, [values[:, :, t], torch.ones_like(keys[:, :, t]), keys[:, :, t]]))
    before: list[list[Tensor]] = []
    for ends in zip(*(each.unbind(1) for each in own[-1]), strict=True):
        before.append(state)
        state = _join(state, decay * STEPS, list(ends))
    rest = (length - 1) % STEPS
    state = _join(before[-1], decay * (rest + 1), [each[:, -1] for each in own[rest]])

    elapsed = torch.arange(STEPS, device=k.device)[:, None] * decay
    carried = [torch.stack(each, 1).unsqueeze(2) for each in zip(*before, strict=True)]
    # What came before in the same chunk; nothing at its start.
    earlier = [torch.stack(each[:-1], 2) for each in zip(*own, strict=True)]
    earlier = [F.pad(x, (0, 0, 1, 0), value=fill) for x, fill in zip(earlier, (0.0, 0.0, -torch.inf), strict=True)]
    far, now = carried[2] - elapsed, keys + bonus
    top = torch.maximum(torch.maximum(far, earlier[2]), now)
    far, near, now = ((each - top).exp() for each in (far, earlier[2], now))
    above = far * carried[0] + near * earlier[0] + now * values
    below = far * carried[1] + near * earlier[1] + now
    return (above / below).view(batch, -1, dim)[:, :length], state


def _join(old: list[Tensor], decay: Tensor, new: list[Tensor]) -> list[Tensor]:
    """Add what is new to what is old and has decayed since; each is numerator, denominator and m."""
    faded = old[2] - decay
    top = torch.maximum(faded, new[2])
    weight_old, weight_new = (faded - top).exp(), (new[2] - top).exp()
    return [weight_old * old[0] + weight_new * new[0], weight_old * old[1] + weight_new * new[1], top]


def wkv6(
    r: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, bonus: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Run ``S_t = diag(w_t) S_{t−1} + k_t v_tᵀ`` and ``y_t = (diag(u) k_t v_tᵀ + S_{t−1})ᵀ r_t`` for each head.

    Args:
        r: ``(B, L, H, N)`` in fp32 or fp64, as all others.
        k: ``(B, L, H, N)``.
        v: ``(B, L, H, N)``.
        log_decay: Logarithm of w, ``(B, L, H, N)``, ≤ 0.
        bonus: u, ``(H, N)``.
        state: ``(B, H, N, N)``, keys first; None for zero.

    Returns:
        ``(B, L, H, N)`` and the last state.
    """
    batch, _, heads, size = k.shape
    carried = k.new_zeros(batch, heads, size, size) if state is None else state
    found = []
    for part in zip(*(torch.split(each, SEGMENT, 1) for each in (r, k, v, log_decay)), strict=True):
        y, carried = recomputed(torch.is_grad_enabled(), _segment, *part, bonus, carried)
        found.append(y)
    return torch.cat(found, 1), carried


def _segment(r: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, bonus: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    batch, length, heads, size = k.shape
    # A token with k = 0 that keeps all leaves the state as it is.
    r, k, v, log_decay = (
        F.pad(x, (0, 0, 0, 0, 0, -length % STEPS)).view(batch, -1, STEPS, heads, size) for x in (r, k, v, log_decay)
    )
    # What decays below e^-100 is gone; a larger sum would cost the others their digits.
    after = log_decay.clamp(min=-100).cumsum(2)
    # Not after − log_decay, whose rounding could make an exponent positive.
    before = F.pad(after[:, :, :-1], (0, 0, 0, 0, 1, 0))
    later = torch.ones(STEPS, STEPS, dtype=torch.bool, device=k.device).triu()[:, :, None, None]
    pairs = (before[:, :, :, None] - after[:, :, None]).masked_fill(later, -torch.inf).exp()
    scores = torch.einsum("bcthn,bcshn,bctshn->bchts", r, k, pairs)
    y = torch.einsum("bchts,bcshv->bcthv", scores, v) + (r * bonus * k).sum(-1, keepdim=True) * v

    added = torch.einsum("bcshn,bcshv->bchnv", k * (after[:, :, -1:] - after).exp(), v)
    kept = after[:, :, -1].exp()[..., None]
    states = []
    for one_kept, one_added in zip(kept.unbind(1), added.unbind(1), strict=True):
        states.append(state)
        state = one_kept * state + one_added
    y = y + torch.einsum("bcthn,bchnv->bcthv", r * before.exp(), torch.stack(states, 1))
    return y.reshape(batch, -1, heads, size)[:, :length], state
