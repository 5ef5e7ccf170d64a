"""The quadratic control: exact softmax attention over all tokens."""

import torch.nn.functional as F
from torch import Tensor, nn

from xt.geometry.grid import TokenLayout
from xt.models.context.base import ContextEncoder
from xt.models.context.blocks import AttentionBlock, block_values


class FullAttention(ContextEncoder):
    """The blocks of :class:`xt.models.context.hyper.Hyper` with exact attention, quadratic in the tokens.

    Args:
        dim: Channels of a token; a multiple of ``head_dim``.
        depth: Layers.
        head_dim: Channels of a head.
        mlp_ratio: Inner width of the MLP over ``dim``.
    """

    family = "attention"
    cost = "quadratic"

    def __init__(self, dim: int, depth: int = 2, head_dim: int = 128, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.dim = dim
        self.working_values = block_values(mlp_ratio)
        self.layers = nn.ModuleList(AttentionBlock(dim, head_dim, mlp_ratio) for _ in range(depth))

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        """Mix tokens ``(B, L, D)``."""
        for layer in self.layers:
            tokens = layer(tokens, None, F.scaled_dot_product_attention)
        return tokens
