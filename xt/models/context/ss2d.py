"""SS2D (VMamba, arXiv 2401.10166) over the map of all tokens: four scans, along rows and columns in both directions.

Different from the paper: a region that does not exist is a border to the convolution, and is left out of the scans.
Extra tokens have no neighbours, and end every order, so that the reversed ones start with them.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xt.geometry import order
from xt.geometry.grid import TokenLayout
from xt.models.context import base
from xt.models.context.base import ContextEncoder, Memory, Pass, pieces_pay, sweep
from xt.models.context.blocks import MLP, recomputed
from xt.models.selective import S6
from xt.models.tokenization import permute, to_map, to_tokens


class SS2DMixer(nn.Module):
    """Projection, depthwise 3 × 3, SiLU, four scans that are summed, LayerNorm, projection.

    Args:
        dim: Channels of a token.
        d_state: States of a channel.
        expand: Inner width over ``dim``.
    """

    def __init__(self, dim: int, d_state: int, expand: int) -> None:
        super().__init__()
        inner = expand * dim
        self.in_proj = nn.Linear(dim, inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        # Rows, rows reversed, columns, columns reversed.
        self.scans = nn.ModuleList(S6(inner, math.ceil(dim / 16), d_state) for _ in range(4))
        self.norm = nn.LayerNorm(inner, eps=1e-5)
        self.out_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        """Mix ``(B, L, D)``."""
        x = F.silu(self._convolve(self.in_proj(tokens), layout))
        by_columns = order.column_major(layout)
        turned = permute(x, by_columns)
        rows, rows_reversed, columns, columns_reversed = cast(list[S6], list(self.scans))
        y = _scanned(rows, x, False) + _scanned(rows_reversed, x, True)
        z = _scanned(columns, turned, False) + _scanned(columns_reversed, turned, True)
        mixed: Tensor = self.out_proj(self.norm(y + permute(z, order.inverse(by_columns))))
        return mixed

    def _convolve(self, x: Tensor, layout: TokenLayout) -> Tensor:
        placed, extra = torch.split(x, [layout.num_tokens - layout.num_extra, layout.num_extra], dim=1)
        found = to_tokens(self.conv2d(to_map(placed, layout)), layout)
        # All neighbours of an extra token lie outside the map.
        alone = torch.addcmul(cast(Tensor, self.conv2d.bias), extra, self.conv2d.weight[:, 0, 1, 1])
        return torch.cat([found, alone], dim=1)


def _scanned(scan: S6, x: Tensor, reverse: bool) -> Tensor:
    """Scan ``(B, L, inner)``, in pieces where that pays."""

    def step(piece: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        y, last = scan.scan(piece, None, reverse, memory[0] if memory else None)
        return y, [last]

    return sweep(x, [Pass(step, reverse)], [None], base.PIECE_TOKENS if pieces_pay(x) else x.shape[1])


class SS2DLayer(nn.Module):
    """``x + SS2D(LN(x))``, then ``x + MLP(LN(x))`` if the MLP has a width."""

    def __init__(self, dim: int, d_state: int, expand: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-5)
        self.mixer = SS2DMixer(dim, d_state, expand)
        self.mlp_norm = nn.LayerNorm(dim, eps=1e-5) if mlp_ratio else None
        self.mlp = MLP(dim, mlp_ratio) if mlp_ratio else None

    def forward(self, x: Tensor, layout: TokenLayout) -> Tensor:
        """Mix ``(B, L, D)``."""
        x = x + self.mixer(self.norm(x), layout)
        return x if self.mlp is None or self.mlp_norm is None else x + self.mlp(self.mlp_norm(x))


class SS2D(ContextEncoder):
    """VMamba's blocks of four scans over the 2-D map, so that a token is as near to the one below as to the next.

    Args:
        dim: Channels of a token.
        depth: Blocks.
        d_state: States of a channel.
        expand: Inner width over ``dim``.
        mlp_ratio: Inner width of the MLP over ``dim``; 0 for none.
    """

    family = "state space"

    def __init__(self, dim: int, depth: int = 2, d_state: int = 16, expand: int = 2, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.dim = dim
        # In the inner width input, map, its convolution, SiLU, columns, step and output of a scan, and two sums.
        self.working_values = max(9.0 * expand, 2 * mlp_ratio) + 3.0
        self.layers = nn.ModuleList(SS2DLayer(dim, d_state, expand, mlp_ratio) for _ in range(depth))

    @property
    def last_sees(self) -> bool:
        """Rows and columns are read forward too."""
        return len(self.layers) > 0

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        """Mix tokens ``(B, L, D)``; layers are recomputed in backward."""
        for layer in self.layers:
            tokens = recomputed(self.training, layer, tokens, layout)
        return tokens
