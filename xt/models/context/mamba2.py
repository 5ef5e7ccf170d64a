"""Mamba-2 over all tokens (Transformers are SSMs, arXiv 2405.21060): state space duality in chunks.

Different from the paper: layers run backward and forward in turn, the first backward, as xT's Mamba layers do.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from xt.errors import ModelError
from xt.models.causal_conv import convolve_piece
from xt.models.context.base import Memory
from xt.models.context.layered import LayeredContextEncoder, Reading
from xt.models.selective import init_step_bias


def ssd(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None, chunk: int
) -> tuple[Tensor, Tensor]:
    """Run ``h = exp(Δ A) h + Δ x Bᵀ``, ``y = h C`` with a scalar A for each head: matrices in chunks, states between.

    Args:
        x: ``(batch, L, H, P)``.
        delta: ``(batch, L, H)``, positive.
        A: ``(H,)``, negative.
        B: ``(batch, L, G, N)``, G divides H.
        C: As ``B``.
        state: ``(batch, H, P, N)``; None for zero.
        chunk: Tokens of a chunk, within which the cost is quadratic.

    Returns:
        ``(batch, L, H, P)`` in the dtype of ``x``, and the last state in fp32 (fp64 for fp64).
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    batch, length, heads, width = x.shape
    groups, states = B.shape[2:]
    chunk = min(chunk, length)
    # A step with Δ = 0 leaves the state as it is.
    fill, each = -length % chunk, (batch, -1, chunk, groups, heads // groups)
    inputs = F.pad(x.to(dtype) * delta[..., None], (0, 0, 0, 0, 0, fill)).view(*each, width)
    B, C = (F.pad(m.to(dtype), (0, 0, 0, 0, 0, fill)).view(batch, -1, chunk, groups, states) for m in (B, C))
    # What decays below e^-100 is gone; a larger sum would cost the others their digits.
    decay = F.pad((delta * A).clamp(min=-100), (0, 0, 0, fill)).view(each).cumsum(2)

    later = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).triu(1)
    between = decay.permute(0, 1, 3, 4, 2)
    between = (between[..., :, None] - between[..., None, :]).masked_fill(later, -torch.inf).exp()
    scores = torch.einsum("bctgn,bcsgn->bcgts", C, B)[:, :, :, None] * between
    y = torch.einsum("bcghts,bcsghp->bctghp", scores, inputs)

    to_end = (decay[:, :, -1:] - decay).exp()
    added = torch.einsum("bcsgn,bcsghp->bcghpn", B, inputs * to_end[..., None])
    carried = x.new_zeros(batch, heads, width, states, dtype=dtype) if state is None else state.to(dtype)
    carried = carried.view(batch, groups, -1, width, states)
    kept = decay[:, :, -1].exp()[..., None, None]
    before = []
    for one_kept, one_added in zip(kept.unbind(1), added.unbind(1), strict=True):
        before.append(carried)
        carried = one_kept * carried + one_added
    y = y + torch.einsum("bctgn,bcghpn->bctghp", C, torch.stack(before, 1)) * decay.exp()[..., None]
    return y.reshape(batch, -1, heads, width)[:, :length].to(x.dtype), carried.reshape(batch, heads, width, states)


class Mamba2Mixer(nn.Module):
    """One projection for gate, input, B, C and step; causal convolution over all but gate and step; SSD; gated norm.

    The norm is of the channels of each group, as in the release.

    Args:
        dim: Channels of a token.
        d_state: States of a channel.
        d_conv: Taps of the convolution.
        expand: Inner width over ``dim``.
        head_dim: Inner channels of a head.
        num_groups: Groups of heads that share B and C.
        chunk_size: Tokens of a chunk.

    Raises:
        ModelError: If heads do not divide the inner width, or groups the heads.
    """

    def __init__(
        self, dim: int, d_state: int, d_conv: int, expand: int, head_dim: int, num_groups: int, chunk_size: int
    ) -> None:
        super().__init__()
        inner = expand * dim
        heads = inner // head_dim
        if inner % head_dim or heads % num_groups:
            raise ModelError(
                f"Mamba2: inner width {inner} ({expand} × {dim}) does not divide by head_dim {head_dim}, or its "
                f"{heads} heads by num_groups {num_groups}; change one of them"
            )
        self.head_dim, self.num_groups, self.d_state, self.chunk_size = head_dim, num_groups, d_state, chunk_size
        mixed = inner + 2 * num_groups * d_state
        self.widths = [inner, mixed, heads]
        self.in_proj = nn.Linear(dim, inner + mixed + heads, bias=False)
        self.conv1d = nn.Conv1d(mixed, mixed, d_conv, groups=mixed)
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = nn.RMSNorm(inner, eps=1e-5)
        self.out_proj = nn.Linear(inner, dim, bias=False)
        init_step_bias(self.dt_bias)

    def forward(self, tokens: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Mix a segment ``(B, l, D)`` from first to last.

        The memory is what the convolution still sees, ``(B, inner + 2 · num_groups · d_state, d_conv - 1)``, and the
        states ``(B, heads, head_dim, d_state)``.
        """
        seen, state = memory or (None, None)
        z, mixed, step = torch.split(self.in_proj(tokens), self.widths, dim=-1)
        mixed, seen = convolve_piece(self.conv1d, mixed, False, seen)
        of_group = self.num_groups * self.d_state
        x, b, c = torch.split(F.silu(mixed), [z.shape[-1], of_group, of_group], dim=-1)
        dtype = torch.promote_types(x.dtype, torch.float32)
        delta = F.softplus(step.to(dtype) + self.dt_bias.to(dtype))
        x = rearrange(x, "b l (h p) -> b l h p", p=self.head_dim)
        b, c = (rearrange(each, "b l (g n) -> b l g n", g=self.num_groups) for each in (b, c))
        y, state = ssd(x, delta, -self.A_log.to(dtype).exp(), b, c, state, self.chunk_size)
        y = (y + self.D.to(x.dtype)[:, None] * x).flatten(2)
        gated = rearrange(y * F.silu(z), "b l (g c) -> b l g c", g=self.num_groups)
        normed = F.rms_norm(gated, gated.shape[-1:], eps=1e-5).flatten(2)
        return self.out_proj(normed * self.norm.weight.to(normed.dtype)), [seen, state]


class Mamba2Layer(nn.Module):
    """``x + Mamba2(RMSNorm(x))``, from last to first if ``reverse``."""

    def __init__(self, dim: int, reverse: bool, mixer: Mamba2Mixer) -> None:
        super().__init__()
        self.reverse = reverse
        self.norm = nn.RMSNorm(dim, eps=1e-5)
        self.mixer = mixer

    def piece(self, x: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Mix a segment ``(B, l, D)`` of the sequence; its memory is the mixer's."""
        own = self.norm(x)
        mixed, memory = self.mixer(own.flip(1) if self.reverse else own, memory)
        return x + (mixed.flip(1) if self.reverse else mixed), memory


class Mamba2(LayeredContextEncoder):
    """Layers that run backward and forward in turn, the first backward.

    Args:
        dim: Channels of a token.
        depth: Layers.
        d_state: States of a channel.
        d_conv: Taps of the convolution.
        expand: Inner width over ``dim``.
        head_dim: Inner channels of a head; it divides ``expand · dim``.
        num_groups: Groups of heads that share B and C.
        chunk_size: Tokens within which attention-like matrices are made; it changes speed alone.

    Raises:
        ModelError: If heads do not divide the inner width, or groups the heads.
    """

    family = "state space"

    def __init__(
        self,
        dim: int,
        depth: int = 4,
        d_state: int = 64,
        d_conv: int = 4,
        expand: int = 2,
        head_dim: int = 64,
        num_groups: int = 1,
        chunk_size: int = 64,
    ) -> None:
        super().__init__()
        self.dim = dim
        # In the inner width input, gate, convolution, products with the step and outputs; the matrices of the chunks.
        self.working_values = expand * (10.0 + 3.0 * chunk_size / head_dim) + 3.0
        sizes = (d_state, d_conv, expand, head_dim, num_groups, chunk_size)
        self.layers = nn.ModuleList(Mamba2Layer(dim, i % 2 == 0, Mamba2Mixer(dim, *sizes)) for i in range(depth))

    @property
    def last_sees(self) -> bool:
        """From the second layer on, the first that runs forward."""
        return len(self.layers) > 1

    def readings(self) -> Sequence[Reading]:
        """One for each layer."""
        layers = cast(list[Mamba2Layer], list(self.layers))
        return [Reading(layer.piece, layer.reverse) for layer in layers]
