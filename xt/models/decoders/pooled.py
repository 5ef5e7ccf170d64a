"""Heads that decode an image into one vector: the class token of xT, and the paper's no-context head."""

from torch import Tensor, nn

from xt.models.decoders.base import DecoderInputs, PooledDecoder


class ClassToken(PooledDecoder):
    """LayerNorm on the class token, which comes last (xT, arXiv 2403.01915, as released).

    Args:
        inputs: Sizes of what is decoded.
    """

    uses_class_token = True

    def __init__(self, inputs: DecoderInputs) -> None:
        super().__init__()
        self.out_channels = inputs.dim
        self.norm = nn.LayerNorm(inputs.dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Decode ``(B, L, dim)`` into ``(B, dim)``."""
        normed: Tensor = self.norm(tokens[:, -1])
        return normed


class Pooled(PooledDecoder):
    """Mean over the tokens, Linear to ``expand · dim``, GELU, LayerNorm: the paper's head without context.

    Args:
        inputs: Sizes of what is decoded.
        expand: Width of the hidden layer over ``dim``.
    """

    uses_class_token = False

    def __init__(self, inputs: DecoderInputs, expand: int = 4) -> None:
        super().__init__()
        dim = inputs.dim
        self.out_channels = expand * dim
        self.layers = nn.Sequential(nn.Linear(dim, expand * dim), nn.GELU(), nn.LayerNorm(expand * dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """Decode ``(B, L, dim)`` into ``(B, expand · dim)``."""
        decoded: Tensor = self.layers(tokens.mean(dim=1))
        return decoded
