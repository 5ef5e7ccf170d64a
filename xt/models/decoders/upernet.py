"""UPerNet (arXiv 1807.10221), the decoder of Samba (arXiv 2404.01705): pyramid pooling and a feature pyramid network.

Different from the paper: LayerNorm over the channels of each cell instead of batch norm over pixels, so that decoding
tile by tile is exact. Pooling is done once for the whole image, in :meth:`UPerNet.prepare`. Its grids span the padded
map, with padding and skipped regions in it: a map does not say where its image ends.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from xt.errors import ModelError
from xt.models.decoders.base import DecoderInputs, DenseDecoder


class UPerNet(DenseDecoder):
    """Pools the coarsest map over the image, hands it down the pyramid, and joins all levels at the finest stride.

    Args:
        inputs: Sizes of the image and the pyramid.
        channels: Channels of every level, and of the output.
        pools: Cells along one side of each pooled grid.

    Raises:
        ModelError: If the strides do not divide each other, or a number is less than 1.
    """

    def __init__(self, inputs: DecoderInputs, channels: int = 512, pools: Sequence[int] = (1, 2, 3, 6)) -> None:
        super().__init__()
        strides = inputs.strides
        if any(b % a or b <= a for a, b in pairwise(strides)):
            raise ModelError(
                f"UPerNet needs strides of which each divides the next, got {strides}; take another encoder"
            )
        if min(channels, *pools, 1) < 1:
            raise ModelError(f"UPerNet: channels {channels} and pools {list(pools)} must be at least 1")
        *finer, coarsest = inputs.channels
        self.stride = strides[0]
        self.out_channels = channels
        self.pools = tuple(pools)
        self.halo = _reach(strides)
        self._widths = [coarsest, *(channels for _ in pools)]
        self.pooled = nn.ModuleList(_Layer(coarsest, channels, 1) for _ in pools)
        self.bottleneck = _Layer(sum(self._widths), channels, 3)
        self.laterals = nn.ModuleList(_Layer(num, channels, 1) for num in finer)
        self.smooth = nn.ModuleList(_Layer(channels, channels, 3) for _ in finer)
        self.fuse = _Layer(channels * len(strides), channels, 3)

    def prepare(self, pyramid: Sequence[Tensor]) -> Sequence[Tensor]:
        """Pool the coarsest map over grids of the whole image, and join them to it; other maps stay as they are."""
        *finer, last = pyramid
        return [*finer, self.bottleneck.of_parts(self._grids(last), self._widths)]

    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        """Decode a prepared pyramid into ``(B, out_channels, H / stride, W / stride)``; the image is not used."""
        *finer, x = pyramid
        levels = [x]
        for lateral, smooth, skip in reversed(list(zip(self.laterals, self.smooth, finer, strict=True))):
            x = lateral(skip) + _resized(x, skip)
            levels.insert(0, smooth(x))
        fused: Tensor = self.fuse(torch.cat([levels[0], *(_resized(each, levels[0]) for each in levels[1:])], dim=1))
        return fused

    def _grids(self, x: Tensor) -> Iterable[Tensor]:
        yield x
        for size, layer in zip(self.pools, self.pooled, strict=True):
            yield _resized(layer(F.adaptive_avg_pool2d(x, size)), x)


class _Layer(nn.Module):
    """Convolution, LayerNorm over channels, ReLU."""

    def __init__(self, in_chans: int, out_chans: int, size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chans, out_chans, size, padding=size // 2)
        self.norm = LayerNorm2d(out_chans)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))

    def of_parts(self, parts: Iterable[Tensor], widths: Sequence[int]) -> Tensor:
        """Do what :meth:`forward` does to the parts joined, of which only one is alive at a time."""
        conv = self.conv
        total = None
        for part, weight in zip(parts, torch.split(conv.weight, list(widths), 1), strict=True):
            found = F.conv2d(part, weight, None if total is not None else conv.bias, padding=conv.padding)
            total = found if total is None else total + found
        return F.relu(self.norm(total))


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _reach(strides: tuple[int, ...]) -> int:
    # Cells beyond a border of the coarsest map. One at the finest is for bilinear upsampling of the logits, one is that
    # of a 3 × 3 convolution; a level is read by its own convolution and by the sum of the level below.
    fused, below, pixels = 2, 0, 0
    for index, stride in enumerate(strides):
        own = _upsampled(fused, stride // strides[0]) + (index < len(strides) - 1)
        below = max(own, _upsampled(below, stride // strides[index - 1]) if index else 0)
        pixels = max(pixels, below * stride)
    return -(-pixels // strides[-1]) * strides[-1]


def _upsampled(cells: int, factor: int) -> int:
    """Cells beyond a border that bilinear upsampling by ``factor`` reads for so many of its result, at least 1."""
    return cells if factor == 1 else -((1 - 2 * cells - factor) // (2 * factor))
