"""The contract of a region encoder."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from xt.plugins import Configurable


class RegionEncoder(nn.Module, Configurable, ABC):
    """Encodes regions, each by itself, into a pyramid of feature maps.

    A subclass sets the attributes below in its constructor. It must treat the regions of a batch independently
    (no batch statistics in training mode), so that the number of regions encoded at a time changes nothing.
    :func:`xt.testing.check_region_encoder` checks all of this.

    Attributes:
        in_chans: Channels of a region.
        region_size: Side R of a region in pixels.
        channels: Channels of each map, finest first.
        strides: Pixels per cell of each map, finest first, ascending.
    """

    in_chans: int
    region_size: int
    channels: tuple[int, ...]
    strides: tuple[int, ...]

    @abstractmethod
    def forward(self, regions: Tensor) -> list[Tensor]:
        """Encode ``(N, C, R, R)`` into maps ``(N, channels[i], R / strides[i], R / strides[i])``."""

    def no_weight_decay(self) -> set[str]:
        """Names of parameters, relative to this module, that weight decay must leave alone, as in context encoders."""
        return set()
