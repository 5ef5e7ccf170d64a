"""TimeMachine (arXiv 2403.09898) over all tokens: Mambas along the tokens and on the transpose, at two scales.

The paper maps a series of one length L to n1 and n2 by full matrices, and a Mamba on the transpose has n1 features.
A scene has any length, so here, in raster order of the sequence:

* a linear map works on runs of tokens, the same for each: ``n1 = ⌈L / pool⌉``, ``n2 = ⌈n1 / pool⌉``. As in the paper it
  is shared by all channels. It starts as a mean, and the map back as repetition;
* the transpose is that of windows of tokens: a sequence of channels with the tokens of a window as features. With
  independent channels there is one, and windows follow each other instead;
* a run or a window that the sequence does not fill repeats the last token.

RevIN stands around each block, with the block as a residual, and its gain is not divided out again. Blocks read the
tokens backward and forward in turn, the first backward, as xT's Mamba layers do. There is no dropout.
"""

from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from xt.errors import ModelError
from xt.geometry.grid import TokenLayout
from xt.models.context.base import ContextEncoder
from xt.models.context.blocks import recomputed
from xt.models.selective import MambaMixer

EPS = 1e-5


class Runs(nn.Module):
    """Linear map from ``num_in`` tokens of each run to ``num_out``, shared by channels and runs."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((num_out, num_in), 1 / num_in))
        self.bias = nn.Parameter(torch.zeros(num_out))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, l, D)`` to ``(B, ⌈l / num_in⌉ · num_out, D)``."""
        runs = _runs(x, self.weight.shape[1])
        mapped = torch.einsum("bnid,oi->bnod", runs, self.weight) + self.bias[:, None]
        return mapped.flatten(1, 2)


class Pair(nn.Module):
    """``Mamba(x) + Mamba(xᵀ)ᵀ`` of one scale.

    Args:
        dim: Channels of a token; 1 if channels are independent.
        window: Tokens that are transposed together.
        d_state: States of a channel.
        d_conv: Taps of the convolutions.
        expand: Inner width over the features.
    """

    def __init__(self, dim: int, window: int, d_state: int, d_conv: int, expand: int) -> None:
        super().__init__()
        self.window = window
        self.along = MambaMixer(dim, d_state, d_conv, expand)
        self.across = MambaMixer(window, d_state, d_conv, expand)

    def forward(self, x: Tensor, reverse: bool) -> Tensor:
        """Mix ``(B, n, D)``."""
        batch, length, dim = x.shape
        windows = _runs(x, self.window)
        if dim == 1:
            turned = self.across(windows.flatten(2), reverse).flatten(1)[..., None]
        else:
            turned = self.across(rearrange(windows, "b m w d -> (b m) d w"))
            turned = rearrange(turned, "(b m) d w -> b (m w) d", b=batch)
        mixed: Tensor = self.along(x, reverse) + turned[:, :length]
        return mixed


class TimeMachineLayer(nn.Module):
    """``x + σ · f(RevIN(x))``: down, outer pair, down again, inner pair, up, both joined and up.

    Args:
        dim: Channels of a token.
        reverse: Whether tokens are read from last to first.
        pool: Tokens of a run.
        window: Tokens that are transposed together.
        d_state: States of a channel.
        d_conv: Taps of the convolutions.
        expand: Inner width over the features.
        independent: Whether each channel is a series of its own.
    """

    def __init__(
        self, dim: int, reverse: bool, pool: int, window: int, d_state: int, d_conv: int, expand: int, independent: bool
    ) -> None:
        super().__init__()
        self.reverse, self.independent = reverse, independent
        self.gain = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        width = 1 if independent else dim
        self.down_outer, self.down_inner = Runs(pool, 1), Runs(pool, 1)
        self.outer, self.inner = (Pair(width, window, d_state, d_conv, expand) for _ in range(2))
        self.up_inner, self.up_outer = Runs(1, pool), Runs(2, pool)

    def forward(self, x: Tensor) -> Tensor:
        """Mix ``(B, L, D)``."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(wide, 1, correction=0, keepdim=True)
        deviation = (variance + EPS).sqrt()
        normed = ((wide - mean) / deviation).to(x.dtype) * self.gain + self.bias
        return x + deviation.to(x.dtype) * self._mix(normed)

    def _mix(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        if self.independent:
            x = rearrange(x, "b l d -> (b d) l 1")
        outer = self.down_outer(x)
        inner = self.down_inner(outer)
        inner = inner + self.inner(inner, self.reverse)
        back = outer + self.up_inner(inner)[:, : outer.shape[1]]
        joined = torch.stack([back, self.outer(outer, self.reverse)], 2).flatten(1, 2)
        mixed: Tensor = self.up_outer(joined)[:, :length]
        return rearrange(mixed, "(b d) l 1 -> b l d", b=batch) if self.independent else mixed


class TimeMachine(ContextEncoder):
    """Layers of four Mambas, two at each of two coarser scales of the sequence.

    What is finer than a run of tokens, the layers leave as it came, beside what the maps back say of its place.

    Args:
        dim: Channels of a token.
        depth: Layers.
        pool: Tokens that become one of the next scale.
        window: Tokens whose channels the Mambas on the transpose read.
        d_state: States of a channel.
        d_conv: Taps of the convolutions.
        expand: Inner width over the features.
        channel_independent: Whether each channel is mixed by itself, all by the same weights.

    Raises:
        ModelError: If ``pool`` or ``window`` is too small.
    """

    family = "state space"

    def __init__(
        self,
        dim: int,
        depth: int = 2,
        pool: int = 2,
        window: int = 16,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        channel_independent: bool = False,
    ) -> None:
        super().__init__()
        if pool < 2 or window < 2:
            raise ModelError(f"TimeMachine: pool {pool} and window {window} must be at least 2")
        self.dim = dim
        # At full length the tokens and what is added to them; of a run, a pair of Mambas and, for channels read by
        # themselves, their steps and weights.
        weights = 2 * d_state + 1 if channel_independent else 0
        self.working_values = 4.0 + (16.0 * expand + 6.0 + weights) / pool
        sizes = (pool, window, d_state, d_conv, expand, channel_independent)
        self.layers = nn.ModuleList(TimeMachineLayer(dim, i % 2 == 0, *sizes) for i in range(depth))

    @property
    def last_sees(self) -> bool:
        """From the second layer on, the first that reads forward."""
        return len(self.layers) > 1

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        """Mix tokens ``(B, L, D)``; layers are recomputed in backward."""
        for layer in cast(list[TimeMachineLayer], list(self.layers)):
            tokens = recomputed(self.training, layer, tokens)
        return tokens


def _runs(x: Tensor, size: int) -> Tensor:
    """Cut ``(B, l, D)`` into ``(B, ⌈l / size⌉, size, D)``, its last token repeated where one is missing."""
    fill = -x.shape[1] % size
    if fill:
        x = torch.cat([x, x[:, -1:].expand(-1, fill, -1)], 1)
    return x.reshape(x.shape[0], -1, size, x.shape[2])
