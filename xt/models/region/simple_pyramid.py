"""The simple feature pyramid of ViTDet (arXiv 2203.16527): several strides from the last map of a plain backbone."""

from collections.abc import Sequence

import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from xt.errors import ModelError


class SimplePyramid(nn.Module):
    """Transposed 2 × 2 convolutions toward finer strides, max pooling toward coarser ones.

    Different from the paper: each doubling halves the channels, the map's own stride is left as it is, and there are no
    further convolutions, which are the decoder's matter.

    Args:
        channels: Channels of the map.
        stride: Pixels per cell of the map.
        strides: Those wanted, ascending, each ``stride`` times or divided by a power of 2.

    Raises:
        ModelError: If a stride cannot be had.

    Attributes:
        channels: Channels of each map given, finest first.
    """

    def __init__(self, channels: int, stride: int, strides: Sequence[int]) -> None:
        super().__init__()
        if not strides or list(strides) != sorted(set(strides)) or not all(_doubled(stride, each) for each in strides):
            raise ModelError(
                f"pyramid {list(strides)}: give ascending strides, each {stride} (the backbone's) times or divided by "
                "a power of 2"
            )
        if channels % max(stride // strides[0], 1):
            raise ModelError(f"pyramid {list(strides)}: {channels} channels cannot be halved so often; start coarser")
        self.factors = [each / stride for each in strides]
        self.channels = tuple(channels if each >= stride else channels * each // stride for each in strides)
        self.grow = nn.ModuleList(_grow(channels, stride // each) for each in strides if each < stride)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Turn ``(N, channels, h, w)`` into maps, finest first."""
        finer = [grow(x) for grow in self.grow]
        coarser = [F.max_pool2d(x, int(factor)) if factor > 1 else x for factor in self.factors if factor >= 1]
        return [*finer, *coarser]


def _doubled(a: int, b: int) -> bool:
    """Whether one is the other times a power of 2."""
    low, high = min(a, b), max(a, b)
    return low > 0 and high % low == 0 and (high // low).bit_count() == 1


def _grow(channels: int, factor: int) -> nn.Module:
    layers: list[nn.Module] = []
    while factor > 1:
        if layers:
            layers += [LayerNorm2d(channels), nn.GELU()]
        layers.append(nn.ConvTranspose2d(channels, channels // 2, 2, stride=2))
        channels, factor = channels // 2, factor // 2
    return nn.Sequential(*layers)
