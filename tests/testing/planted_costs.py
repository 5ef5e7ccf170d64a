"""Encoders whose work grows faster than they say."""

import torch
import torch.nn.functional as F
from sound import Sound
from torch import Tensor

from xt.geometry.grid import TokenLayout


class Quadratic(Sound):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        weights = (tokens @ tokens.mT / self.dim**0.5).softmax(-1)
        return super().forward(weights @ tokens, layout)


class FusedQuadratic(Sound):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        return super().forward(F.scaled_dot_product_attention(tokens, tokens, tokens), layout)


class LongConvolution(Sound):
    """As many elements as tokens, but as many products as pairs."""

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        taps = torch.full((1, 1, tokens.shape[1]), 0.1, dtype=tokens.dtype)
        heard = F.conv1d(F.pad(tokens.mean(2)[:, None], (tokens.shape[1] - 1, 0)), taps)
        return super().forward(tokens + heard.mT, layout)


class SlicedGradient(Sound):
    """Linear without gradients; that of each slice is a whole sequence of zeros but for the slice."""

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        slices = [tokens[:, start : start + 16] for start in range(0, tokens.shape[1], 16)]
        return super().forward(torch.cat(slices, dim=1), layout)


class UnknownCost(Sound):
    cost = "cheap"
