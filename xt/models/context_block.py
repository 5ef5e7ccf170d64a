"""Between the features and the context encoder: tokens, positions, a class token."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from xt.errors import ModelError
from xt.geometry import order
from xt.geometry.grid import TokenLayout
from xt.models.context.base import ContextEncoder, Memory, RecurrentContextEncoder
from xt.models.contracts import check_mixed
from xt.models.tokenization import to_tokens


def sincos_positions(layout: TokenLayout, dim: int) -> Tensor:
    """Fixed 2-D sine-cosine position in the scene of each token that has a place: ``(L, dim)`` float32.

    The first half of the channels is for the column, the second for the row; each is a block of sines, then one of
    cosines, with frequencies ``10000^(−k / (dim / 4))``.
    """
    place = torch.tensor(order.scene_positions(layout), dtype=torch.float32)
    omega = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    found = torch.empty(len(place), dim)
    for axis, half in zip((1, 0), found.chunk(2, 1), strict=True):
        angles = place[:, axis, None] * omega.float()
        for f, block in zip((torch.sin, torch.cos), half.chunk(2, 1), strict=True):
            f(angles, out=block)
    return found


class ContextBlock(nn.Module):
    """Projects the last features to tokens, adds positions, mixes all regions, and projects back if asked.

    Args:
        channels: Channels of the features.
        encoder: The context encoder.
        class_token: Append a learned token without a place.
        project_back: Return to ``channels``.
        positions: Add positions to the tokens.
    """

    def __init__(
        self, channels: int, encoder: ContextEncoder, class_token: bool, project_back: bool, positions: bool = True
    ) -> None:
        super().__init__()
        self.positions = positions
        if encoder.dim % 4:
            raise ModelError(f"context_dim {encoder.dim} must be a multiple of 4 for 2-D positions")
        if class_token and not encoder.last_sees:
            raise ModelError(
                f"context {type(encoder).__name__}: the class token, which comes last, sees no other; take decoder "
                "Pooled, or a context that reaches it (Mamba: depth 2 or more, since its first layer runs backward)"
            )
        self.input_proj = nn.Linear(channels, encoder.dim)
        self.encoder = encoder
        self.output_proj = nn.Linear(encoder.dim, channels) if project_back else None
        self.class_token = nn.Parameter(torch.empty(1, 1, encoder.dim)) if class_token else None
        if self.class_token is not None:
            nn.init.normal_(self.class_token, std=1e-6)

    def forward(self, features: Tensor, layout: TokenLayout) -> Tensor:
        """Mix a map ``(B, channels, h, w)`` into tokens ``(B, L, channels or dim)``."""
        tokens, layout = self._enter(features, layout)
        shape, dtype = tokens.shape, tokens.dtype
        tokens = self.encoder(tokens, layout)  # the old ones are let go of
        check_mixed(self.encoder, tokens, shape, dtype)
        return self.project_back(tokens)

    def step(self, features: Tensor, layout: TokenLayout, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Mix one segment of a scene as :meth:`RecurrentContextEncoder.step` does; without a class token.

        Raises:
            ModelError: If the context encoder is not recurrent.
        """
        assert self.class_token is None
        if not isinstance(self.encoder, RecurrentContextEncoder):
            raise ModelError(f"context {type(self.encoder).__name__} has no step; it must see all regions at once")
        tokens, layout = self._enter(features, layout)
        shape, dtype = tokens.shape, tokens.dtype
        tokens, memory = self.encoder.step(tokens, layout, memory)
        check_mixed(self.encoder, tokens, shape, dtype)
        return self.project_back(tokens), memory

    def embed(self, features: Tensor, layout: TokenLayout) -> Tensor:
        """Project features ``(B, L, channels)`` in the order of ``layout``, with positions: ``(B, L, dim)``."""
        tokens: Tensor = self.input_proj(features)
        if not self.positions:
            return tokens
        positions = sincos_positions(layout, self.encoder.dim).to(tokens)
        return tokens + positions if torch.is_grad_enabled() else tokens.add_(positions)

    def project_back(self, tokens: Tensor) -> Tensor:
        """Return mixed tokens ``(B, L, dim)`` to the channels of the features, if the block does."""
        return tokens if self.output_proj is None else self.output_proj(tokens)

    def _enter(self, features: Tensor, layout: TokenLayout) -> tuple[Tensor, TokenLayout]:
        tokens = self.embed(to_tokens(features, layout), layout)
        if self.class_token is not None:
            layout = replace(layout, num_extra=1)
            tokens = torch.cat([tokens, self.class_token.to(tokens).expand(tokens.shape[0], -1, -1)], dim=1)
        return tokens, layout
