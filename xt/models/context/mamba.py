"""Mamba over all tokens (xT, arXiv 2403.01915, as released; Mamba, arXiv 2312.00752)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xt.geometry.grid import TokenLayout
from xt.models.context.base import ContextEncoder
from xt.models.context.blocks import run_layer
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
        x = F.silu(self._convolve(x.transpose(1, 2), reverse).transpose(1, 2))
        step, b, c = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        rates = self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32))
        y = selective_scan_channels_last(
            x,
            F.linear(step, self.dt_proj.weight),
            -rates.exp(),
            b,
            c,
            self.D,
            z,
            delta_bias=self.dt_proj.bias,
            delta_softplus=True,
            reverse=reverse,
        )
        out: Tensor = self.out_proj(y)
        return out

    def _convolve(self, x: Tensor, reverse: bool) -> Tensor:
        """Each channel of ``(B, D, L)`` with its taps, over what came before."""
        if not reverse:
            causal: Tensor = self.conv1d(x)[..., : x.shape[2]]
            return causal
        taps = self.conv1d.weight.flip(-1)
        before = taps.shape[-1] - 1
        return F.conv1d(x, taps, self.conv1d.bias, padding=before, groups=taps.shape[0])[..., before:]


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


class Mamba(ContextEncoder):
    """Layers that run backward and forward in turn, the first backward.

    Weight decay leaves ``A_log`` and ``D`` of each layer alone (:meth:`no_weight_decay`).

    Args:
        dim: Channels of a token.
        depth: Layers.
        d_state: States of a channel.
        d_conv: Taps of the convolution.
        expand: Inner width over ``dim``.
    """

    def __init__(self, dim: int, depth: int = 4, d_state: int = 16, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        self.dim = dim
        self.layers = nn.ModuleList(MambaLayer(dim, i % 2 == 0, d_state, d_conv, expand) for i in range(depth))

    @property
    def last_sees(self) -> bool:
        """From the second layer on, the first that runs forward."""
        return len(self.layers) > 1

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        """Mix tokens ``(B, L, D)``."""
        for layer in self.layers:
            tokens = run_layer(layer, tokens)
        return tokens
