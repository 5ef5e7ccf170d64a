"""RWKV over all tokens: version 4 (arXiv 2305.13048) or 6 (Eagle and Finch, arXiv 2404.05892).

Different from the papers: layers run backward and forward in turn, the first backward, as xT's Mamba layers do; there
is no embedding and no norm before the first or after the last layer. The low-rank maps of version 6 start at 1e-4
instead of 0, so that each parameter learns from the first step.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from xt.errors import ModelError
from xt.models.context.base import Memory
from xt.models.context.layered import LayeredContextEncoder, Reading
from xt.models.context.wkv import wkv4, wkv6

MIX_RANK, DECAY_RANK = 32, 64


def shift(x: Tensor, last: Tensor | None) -> tuple[Tensor, Tensor]:
    """Give the token before each of ``(B, l, D)``, zero at the start, and the last one, ``(B, 1, D)``."""
    last = x.new_zeros(x.shape[0], 1, x.shape[2]) if last is None else last
    return torch.cat([last, x[:, :-1]], dim=1), x[:, -1:].clone()


class TimeMix4(nn.Module):
    """``W_o(σ(r) · wkv(k, v))``, with r, k and v of a token blended with the one before.

    Args:
        dim: Channels of a token.
        index: Number of the layer, from 0.
        depth: Layers in all.
    """

    def __init__(self, dim: int, index: int, depth: int) -> None:
        super().__init__()
        place, early = _place(index, depth), _early(dim, index, depth)
        self.mix_k = nn.Parameter(early.clone())
        self.mix_v = nn.Parameter(early + 0.3 * place)
        self.mix_r = nn.Parameter(early.sqrt())
        self.decay = nn.Parameter(-5 + 8 * (torch.arange(dim) / max(dim - 1, 1)) ** (0.7 + 1.3 * place))
        self.bonus = nn.Parameter(torch.full((dim,), 0.3).log() + 0.5 * ((torch.arange(dim) + 1) % 3 - 1))
        self.key, self.value, self.receptance, self.output = (nn.Linear(dim, dim, bias=False) for _ in range(4))

    def forward(self, x: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Mix a segment ``(B, l, D)``; memory is the last token, numerator, denominator and exponent."""
        before, last = shift(x, memory[0] if memory else None)
        k, v, r = (
            layer(before + mix * (x - before))
            for layer, mix in ((self.key, self.mix_k), (self.value, self.mix_v), (self.receptance, self.mix_r))
        )
        decay, bonus, keys, values = (_wide(each) for each in (self.decay, self.bonus, k, v))
        mixed, state = wkv4(decay.exp(), bonus, keys, values, memory[1:] if memory else None)
        return self.output(r.sigmoid() * mixed.to(r.dtype)), [last, *state]


class TimeMix6(nn.Module):
    """``W_o(norm(y) · SiLU(g))``: a matrix state per head, whose decay and blends the tokens say themselves.

    Args:
        dim: Channels of a token; a multiple of ``head_dim``.
        index: Number of the layer, from 0.
        depth: Layers in all.
        head_dim: Channels of a head.
    """

    def __init__(self, dim: int, index: int, depth: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        place, early = _place(index, depth), _early(dim, index, depth)
        fraction, slow = torch.arange(dim) / max(dim - 1, 1), early.sqrt()
        self.mix_x = nn.Parameter(1 - early)
        # Decay, key, value, receptance, gate.
        self.mix = nn.Parameter(torch.stack([1 - early, 1 - early, 1 - early - 0.3 * place, 1 - slow, 1 - slow]))
        self.mix_down = nn.Parameter(torch.empty(5, MIX_RANK, dim).uniform_(-1e-4, 1e-4))
        self.mix_up = nn.Parameter(torch.empty(5, dim, MIX_RANK).uniform_(-0.01, 0.01))
        self.decay = nn.Parameter(-6 + 5 * fraction ** (0.7 + 1.3 * place))
        self.decay_down = nn.Parameter(torch.empty(DECAY_RANK, dim).uniform_(-1e-4, 1e-4))
        self.decay_up = nn.Parameter(torch.empty(dim, DECAY_RANK).uniform_(-0.01, 0.01))
        self.bonus = nn.Parameter(place * (1 - fraction) + 0.1 * ((torch.arange(dim) + 1) % 3 - 1))
        self.key, self.value, self.receptance, self.gate, self.output = (
            nn.Linear(dim, dim, bias=False) for _ in range(5)
        )
        self.norm = nn.GroupNorm(dim // head_dim, dim, eps=64e-5)

    def forward(self, x: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Mix a segment ``(B, l, D)``; memory is the last token and the state ``(B, heads, head_dim, head_dim)``."""
        before, last = shift(x, memory[0] if memory else None)
        away = before - x
        blended = x + away * self.mix_x
        low = torch.einsum("bld,krd->kblr", blended, self.mix_down).tanh()
        mixes = torch.einsum("kblr,kdr->kbld", low, self.mix_up) + self.mix[:, None, None]
        of_decay, *others = x + away * mixes
        layers = (self.key, self.value, self.receptance, self.gate)
        k, v, r, g = (layer(each) for layer, each in zip(layers, others, strict=True))
        decay = self.decay + F.linear(F.linear(of_decay, self.decay_down).tanh(), self.decay_up)
        heads = (rearrange(_wide(each), "b l (h n) -> b l h n", n=self.head_dim) for each in (r, k, v, decay))
        r, k, v, decay = heads
        bonus = rearrange(_wide(self.bonus), "(h n) -> h n", n=self.head_dim)
        y, state = wkv6(r, k, v, -decay.exp(), bonus, memory[1] if memory else None)
        normed = self.norm(y.to(x.dtype).flatten(2).flatten(0, 1)).view_as(x)
        return self.output(normed * F.silu(g)), [last, state]


class ChannelMix(nn.Module):
    """``σ(r) · W_v relu(W_k x)²``, with both of a token blended with the one before.

    Args:
        dim: Channels of a token.
        index: Number of the layer, from 0.
        depth: Layers in all.
        ratio: Inner width over ``dim``.
    """

    def __init__(self, dim: int, index: int, depth: int, ratio: float) -> None:
        super().__init__()
        self.mix_k = nn.Parameter(_early(dim, index, depth))
        self.mix_r = nn.Parameter(_early(dim, index, depth))
        self.key = nn.Linear(dim, int(dim * ratio), bias=False)
        self.value = nn.Linear(int(dim * ratio), dim, bias=False)
        self.receptance = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, last: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map a segment ``(B, l, D)``; also returns its last token."""
        before, last = shift(x, last)
        inner = F.relu(self.key(before + self.mix_k * (x - before))).square()
        return self.receptance(before + self.mix_r * (x - before)).sigmoid() * self.value(inner), last


class RWKVLayer(nn.Module):
    """Time mixing and channel mixing, each of a LayerNorm and with a residual; from last to first if ``reverse``."""

    def __init__(self, dim: int, reverse: bool, time_mix: nn.Module, channel_mix: ChannelMix) -> None:
        super().__init__()
        self.reverse = reverse
        self.time_norm = nn.LayerNorm(dim, eps=1e-5)
        self.time_mix = time_mix
        self.channel_norm = nn.LayerNorm(dim, eps=1e-5)
        self.channel_mix = channel_mix

    def piece(self, x: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Mix a segment ``(B, l, D)``; memory is the last token of the channel mixing, and that of the time mixing."""
        x = x.flip(1) if self.reverse else x
        mixed, of_time = self.time_mix(self.time_norm(x), memory[1:] if memory else None)
        x = x + mixed
        mixed, last = self.channel_mix(self.channel_norm(x), memory[0] if memory else None)
        x = x + mixed
        return x.flip(1) if self.reverse else x, [last, *of_time]


class RWKV(LayeredContextEncoder):
    """Layers that run backward and forward in turn, the first backward.

    Args:
        dim: Channels of a token; with version 6 a multiple of ``head_dim``.
        depth: Layers.
        version: 4, a decay for each channel, or 6, a matrix state with decays that depend on the tokens.
        head_dim: Channels of a head, in version 6.
        mlp_ratio: Inner width of the channel mixing over ``dim``.

    Raises:
        ModelError: If the version is another, or heads do not divide the channels.
    """

    family = "recurrence"

    def __init__(self, dim: int, depth: int = 4, version: int = 6, head_dim: int = 64, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        if version not in (4, 6):
            raise ModelError(f"RWKV: version {version} is not there; take 4 or 6")
        if version == 6 and dim % head_dim:
            raise ModelError(f"RWKV: context_dim {dim} does not divide by head_dim {head_dim}; change one of them")
        self.dim = dim
        # Version 6: blends, heads, sums of decays and the states of the chunks, beside the pairs of a segment.
        self.working_values = max(26.0 if version == 4 else 26.0 + 2 * head_dim / 16, 2 * mlp_ratio + 6.0)
        self.layers = nn.ModuleList()
        for index in range(depth):
            where = (dim, index, depth)
            time_mix = TimeMix4(*where) if version == 4 else TimeMix6(*where, head_dim)
            self.layers.append(RWKVLayer(dim, index % 2 == 0, time_mix, ChannelMix(*where, mlp_ratio)))

    @property
    def last_sees(self) -> bool:
        """From the second layer on, the first that runs forward."""
        return len(self.layers) > 1

    def readings(self) -> Sequence[Reading]:
        """One for each layer."""
        layers = cast(list[RWKVLayer], list(self.layers))
        return [Reading(layer.piece, layer.reverse) for layer in layers]

    def no_weight_decay(self) -> set[str]:
        """Names of the blends and low-rank maps of version 6; others with a start of their own have one axis."""
        kept = ("mix", "mix_up", "mix_down", "decay_up", "decay_down")
        return {name for name, _ in self.named_parameters() if name.rpartition(".")[2] in kept}


def _place(index: int, depth: int) -> float:
    """Where a layer stands, from 0 (first) to 1 (last)."""
    return index / max(depth - 1, 1)


def _early(dim: int, index: int, depth: int) -> Tensor:
    """Share of the token itself in a blend, by channel; the last layer, too, hears the one before."""
    return (torch.arange(dim) / dim) ** (1 - index / depth)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
