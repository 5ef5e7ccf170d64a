"""The contracts of decoders: dense ones give maps, pooled ones give one vector per image."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from xt.plugins import Configurable


@dataclass(frozen=True)
class DecoderInputs:
    """What a decoder gets, known once the rest of the model is built.

    Attributes:
        in_chans: Channels of the image.
        channels: Channels of the pyramid, finest first.
        strides: Pixels per cell of the pyramid, finest first, ascending.
        dim: Channels of a token.
    """

    in_chans: int
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    dim: int


class Decoder(nn.Module, Configurable, ABC):
    """Base of both kinds. The first constructor argument is ``inputs``; the model supplies it.

    Attributes:
        out_channels: Channels of what it gives.
    """

    out_channels: int


class DenseDecoder(Decoder):
    """Turns a feature pyramid into one map.

    :meth:`forward` must be local: an output cell depends on no input farther than ``halo`` pixels away, so that
    decoding tile by tile with a halo equals decoding the whole image. What is global, such as pyramid pooling, has its
    place in :meth:`prepare`, which the model calls once per image, before it cuts tiles.
    :func:`xt.testing.check_decoder` checks all of this.

    Attributes:
        stride: Pixels per cell of the map.
        halo: Reach in pixels, a multiple of the coarsest stride.
        takes_window: Whether :meth:`forward` takes a ``window`` of cells of the map as a third argument, and returns
            that part alone without having computed the rest.
    """

    stride: int
    halo: int
    takes_window: ClassVar[bool] = False

    @property
    def is_local(self) -> bool:
        """Whether :meth:`prepare` has nothing to do, so that a part of an image can be decoded without the rest."""
        return type(self).prepare is DenseDecoder.prepare

    def prepare(self, pyramid: Sequence[Tensor]) -> Sequence[Tensor]:
        """Do to the pyramid of a whole image what needs all of it; nothing by default.

        Args:
            pyramid: Maps ``(B, channels[i], H / strides[i], W / strides[i])`` of the whole image, finest first.

        Returns:
            As many maps, each as high and wide as the one that came. Channels may differ: :meth:`forward` gets tiles of
            these maps.
        """
        return pyramid

    @abstractmethod
    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        """Decode.

        Args:
            image: ``(B, C, H, W)``, H and W multiples of the coarsest stride.
            pyramid: What :meth:`prepare` gave, cut to the tile: by default maps ``(B, channels[i], H / strides[i],
                W / strides[i])``, finest first.

        Returns:
            ``(B, out_channels, H / stride, W / stride)``.
        """


class PooledDecoder(Decoder):
    """Turns the tokens of an image into one vector.

    Attributes:
        uses_class_token: Whether the model must append a class token to the sequence.
    """

    uses_class_token: bool

    @abstractmethod
    def forward(self, tokens: Tensor) -> Tensor:
        """Decode tokens ``(B, L, dim)`` (class token last if used) into ``(B, out_channels)``."""
