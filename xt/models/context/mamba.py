"""Mamba over all tokens (xT, arXiv 2403.01915, as released; Mamba, arXiv 2312.00752)."""

import functools
import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xt.geometry.grid import TokenLayout
from xt.models.context.base import PIECE_TOKENS, Memory, Pass, SequentialContextEncoder, pieces_pay, sweep
from xt.models.context.blocks import recomputed
from xt_kernels.selective_scan import selective_scan_channels_last


class MambaMixer(nn.Module):
    """One selective state space: projection, causal convolution, scan, gate, projection.

    Weight decay must leave ``A_log`` and ``D`` alone: it would pull every state to one rate of forgetting.

    Args:
        dim: Channels of a token.
        d_state: States of a channel.
        d_conv: Taps of the convolution.
        expand: Inner width over ``dim``.
    """

    def __init__(self, dim: int, d_state: int, d_conv: int, expand: int) -> None:
        super().__init__()
        inner = expand * dim
        self.dt_rank = math.ceil(dim / 16)
        self.d_state = d_state
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, dim, bias=False)
        self._init_step()

    def _init_step(self) -> None:
        bound = self.dt_rank**-0.5
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        # softplus(bias) is log-uniform in [1e-3, 1e-1].
        low, high = math.log(1e-3), math.log(1e-1)
        step = (torch.rand_like(self.dt_proj.bias) * (high - low) + low).exp()
        with torch.no_grad():
            self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters of the recurrence."""
        return {"A_log", "D"}

    def forward(self, tokens: Tensor, reverse: bool = False) -> Tensor:
        """Mix ``(B, L, D)`` from first to last, or from last to first."""
        x, z = self.in_proj(tokens).chunk(2, dim=-1)
        return self._scan(self._convolve(x.transpose(1, 2), reverse), z, reverse, None)[0]

    def step(self, tokens: Tensor, reverse: bool, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Mix a segment ``(B, l, D)`` as :meth:`forward` does the whole sequence.

        The memory is what the convolution still sees of the segment read before, ``(B, inner, d_conv - 1)``, and the
        state of the scan ``(B, inner, d_state)``; gradients go through both.
        """
        x, z = self.in_proj(tokens).chunk(2, dim=-1)
        x, before = x.transpose(1, 2), self.conv1d.kernel_size[0] - 1
        seen, state = memory or (x.new_zeros(*x.shape[:2], before), None)
        x = torch.cat([x, seen] if reverse else [seen, x], dim=2)
        # A copy, which does not keep the segment alive.
        seen = x.narrow(2, 0 if reverse else x.shape[2] - before, before).clone()
        taps = self.conv1d.weight.flip(-1) if reverse else self.conv1d.weight
        mixed, state = self._scan(F.conv1d(x, taps, self.conv1d.bias, groups=len(taps)), z, reverse, state)
        return mixed, [seen, state]

    def _convolve(self, x: Tensor, reverse: bool) -> Tensor:
        """Each channel of ``(B, D, L)`` with its taps, over what came before."""
        if not reverse:
            causal: Tensor = self.conv1d(x)[..., : x.shape[2]]
            return causal
        taps = self.conv1d.weight.flip(-1)
        before = taps.shape[-1] - 1
        return F.conv1d(x, taps, self.conv1d.bias, padding=before, groups=taps.shape[0])[..., before:]

    def _scan(self, convolved: Tensor, z: Tensor, reverse: bool, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """From the convolution ``(B, D, L)`` and the gate ``(B, L, D)`` to the mixed tokens and the last state."""
        x = F.silu(convolved.transpose(1, 2))
        step, b, c = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        rates = self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32))
        y, last = selective_scan_channels_last(
            x,
            F.linear(step, self.dt_proj.weight),
            -rates.exp(),
            b,
            c,
            self.D,
            z,
            delta_bias=self.dt_proj.bias,
            delta_softplus=True,
            initial_state=state,
            return_last_state=True,
            reverse=reverse,
        )
        return self.out_proj(y), last


class MambaLayer(nn.Module):
    """``LN(x) + Mamba(LN(x))``, from last to first if ``reverse``."""

    def __init__(self, dim: int, reverse: bool, d_state: int, d_conv: int, expand: int) -> None:
        super().__init__()
        self.reverse = reverse
        self.norm = nn.LayerNorm(dim, eps=1e-5)
        self.mixer = MambaMixer(dim, d_state, d_conv, expand)

    def forward(self, x: Tensor) -> Tensor:
        """Mix ``(B, L, D)``."""
        x = self.norm(x)
        out: Tensor = x + self.mixer(x, self.reverse)
        return out

    def step(self, x: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Mix a segment ``(B, l, D)`` of the sequence; its memory is the mixer's."""
        out, memory = self.piece(x, memory)
        return out, [each.detach() for each in memory]

    def piece(self, x: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Do what :meth:`step` does, with gradients through the memory."""
        x = self.norm(x)
        mixed, memory = self.mixer.step(x, self.reverse, memory)
        return x + mixed, memory


class Mamba(SequentialContextEncoder):
    """Layers that run backward and forward in turn, the first backward.

    Weight decay leaves ``A_log`` and ``D`` of each layer alone (:meth:`no_weight_decay`).

    Args:
        dim: Channels of a token.
        depth: Layers.
        d_state: States of a channel.
        d_conv: Taps of the convolution.
        expand: Inner width over ``dim``.
    """

    family = "state space"

    def __init__(self, dim: int, depth: int = 4, d_state: int = 16, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        self.dim = dim
        # In the mixer's inner width input, gate, what the convolution takes and gives, its SiLU, step and output.
        self.working_values = 7.0 * expand + 3.0
        self.layers = nn.ModuleList(MambaLayer(dim, i % 2 == 0, d_state, d_conv, expand) for i in range(depth))

    @property
    def last_sees(self) -> bool:
        """From the second layer on, the first that runs forward."""
        return len(self.layers) > 1

    def passes(self) -> Sequence[Pass]:
        """One pass for each layer."""
        layers = cast(list[MambaLayer], list(self.layers))
        return [Pass(layer.step, layer.reverse) for layer in layers]

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        """Mix tokens ``(B, L, D)``, in pieces where that pays; layers or pieces are recomputed in backward."""
        if not torch.is_grad_enabled():
            return super().forward(tokens, layout)
        for layer in cast(list[MambaLayer], list(self.layers)):
            if pieces_pay(tokens):
                run = functools.partial(recomputed, self.training, layer.piece)
                tokens = sweep(tokens, [Pass(run, layer.reverse)], [None], PIECE_TOKENS)
            else:
                tokens = recomputed(self.training, layer, tokens)
        return tokens
