"""The contracts of decoders: dense ones give maps, pooled ones give one vector per image."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from xt.plugins import Configurable


class DenseDecoder(nn.Module, Configurable, ABC):
    """Turns a feature pyramid into one map.

    The first constructor arguments are ``in_chans`` (of the image), ``channels`` and ``strides`` (of the pyramid,
    finest first); the model supplies them. A decoder must be local: an output cell depends on no input farther
    than ``halo`` pixels away, so that decoding tile by tile with a halo equals decoding the whole image.

    Attributes:
        out_channels: Channels of the map.
        stride: Pixels per cell of the map.
        halo: Reach in pixels, a multiple of the coarsest stride.
    """

    out_channels: int
    stride: int
    halo: int

    @abstractmethod
    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        """Decode.

        Args:
            image: ``(B, C, H, W)``, H and W multiples of the coarsest stride.
            pyramid: Maps ``(B, channels[i], H / strides[i], W / strides[i])``, finest first.

        Returns:
            ``(B, out_channels, H / stride, W / stride)``.
        """


class PooledDecoder(nn.Module, Configurable, ABC):
    """Turns the tokens of an image into one vector.

    The first constructor argument is ``dim``, the channels of a token; the model supplies it.

    Attributes:
        out_channels: Length of the vector.
        uses_class_token: Whether the model must append a class token to the sequence.
    """

    out_channels: int
    uses_class_token: bool

    @abstractmethod
    def forward(self, tokens: Tensor) -> Tensor:
        """Decode tokens ``(B, L, dim)`` (class token last if used) into ``(B, out_channels)``."""
