"""The UNet decoder of the xView3 recipe: nearest upsampling, skip connections, 3 × 3 convolutions with SiLU."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xt.errors import ModelError
from xt.geometry.grid import Window
from xt.models.decoders.base import DecoderInputs, DenseDecoder
from xt.models.decoders.upsampled import UpsampledConv2d

_REACH = 2
"""Cells beyond its result that a level reads: two convolutions of 3 × 3."""


class UNet(DenseDecoder):
    """Goes from the coarsest map up to ``out_stride``, joining one skip at each level.

    Below the pyramid's finest stride the skip is a map learned from the image itself by one strided convolution.
    There is no normalisation over pixels, so decoding tile by tile is exact.

    Args:
        inputs: Sizes of the image and the pyramid.
        filters: Channels of the levels, finest first; as many as there are levels, or more.
        out_stride: Pixels per cell of the output: a stride of the pyramid, or what halving one gives.

    Raises:
        ModelError: If the strides do not divide each other or do not reach ``out_stride``, or filters are missing.
    """

    takes_window = True

    def __init__(
        self,
        inputs: DecoderInputs,
        filters: Sequence[int] = (48, 96, 176, 256),
        out_stride: int = 2,
    ) -> None:
        super().__init__()
        in_chans, channels, strides = inputs.in_chans, inputs.channels, inputs.strides
        levels = _levels(strides, out_stride)
        if len(filters) < len(levels) or min(filters) < 1:
            raise ModelError(
                f"UNet with {len(levels)} levels (strides {levels}) needs as many filters, each at least 1; "
                f"got {list(filters)}"
            )
        self.stride = out_stride
        self.out_channels = filters[0]
        self._strides = strides
        self._image_stride = out_stride if out_stride < strides[0] else 0
        self.stem = _Stem(in_chans, filters[0], out_stride) if self._image_stride else None
        below = channels[-1]
        coarse = strides[-1]
        blocks = []
        for level, width in zip(reversed(levels), reversed(filters[: len(levels)]), strict=True):
            if level in strides[:-1]:
                skip = channels[strides.index(level)]
            else:
                skip = filters[0] if level == self._image_stride else 0
            blocks.append(_Block(below, skip, width, coarse // level))
            below, coarse = width, level
        self.blocks = nn.ModuleList(blocks)
        self._levels = tuple(reversed(levels))
        self.halo = self._reach(strides[-1])
        self.apply(_keep_scale)

    def forward(self, image: Tensor, pyramid: Sequence[Tensor], window: Window | None = None) -> Tensor:
        """Decode; each level is computed where the finer ones need it.

        Args:
            image: ``(B, C, H, W)``.
            pyramid: Its maps.
            window: Of cells of the result; None for all.

        Returns:
            ``(B, out_channels, H / stride, W / stride)``, or that of the window.
        """
        height, width = image.shape[-2:]
        window = window or Window(0, 0, height // self.stride, width // self.stride)
        levels, wanted, blocks = [], window, cast("Sequence[_Block]", self.blocks)
        for level, block in reversed(list(zip(self._levels, blocks, strict=True))):
            read = wanted.grow(_REACH).clip(height // level, width // level)
            levels.append((level, block, read, wanted))
            wanted = read.coarsened(block.factor)
        # The coarsest map is where decoding starts, no skip.
        skips = dict(zip(self._strides[:-1], pyramid[:-1], strict=True))
        x = pyramid[-1][(..., *wanted.slices)]
        for level, block, read, own in reversed(levels):
            skip = skips[level][(..., *read.slices)] if level in skips else None
            if self.stem is not None and level == self._image_stride:
                skip = self.stem(image[(..., *read.refined(level).slices)])
            x = block(x, skip, read.within(wanted.refined(block.factor)))[(..., *own.within(read).slices)]
            wanted = own
        return x

    def _reach(self, coarsest: int) -> int:
        # From the output down: one cell for bilinear upsampling of the logits, two convolutions a level.
        cells, pixels, fine = 1, self.stride, self.stride
        for level, above in pairwise((*reversed(self._levels), coarsest)):
            factor = above // level
            cells += _REACH
            pixels, fine = max(pixels, cells * level), level
            cells = -(-cells // factor)
        pixels = max(pixels, cells * coarsest, fine)
        return -(-pixels // coarsest) * coarsest


def _levels(strides: tuple[int, ...], out_stride: int) -> list[int]:
    if any(b % a or b <= a for a, b in pairwise(strides)):
        raise ModelError(f"UNet needs strides of which each divides the next, got {strides}; take another encoder")
    reached = {stride >> power for stride in strides for power in range(stride.bit_length()) if not stride % 2**power}
    if out_stride not in reached:
        raise ModelError(
            f"UNet cannot reach out_stride {out_stride} from strides {strides} by halving; "
            f"take one of {', '.join(map(str, sorted(reached)))}"
        )
    if out_stride == strides[-1]:
        return [out_stride]
    inside = [s for s in strides[:-1] if s >= out_stride]
    level = inside[0] if inside else strides[-1]
    extra: list[int] = []
    while level > out_stride:
        level //= 2
        extra.insert(0, level)
    return [*extra, *inside]


def _keep_scale(module: nn.Module) -> None:
    # torch's default for convolutions shrinks activations from layer to layer, and there are twelve without a norm.
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]


class _Stem(nn.Module):
    """One strided convolution from the image to the output's stride."""

    def __init__(self, in_chans: int, out_chans: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chans, out_chans, 3 if stride <= 2 else stride, stride, 1 if stride <= 2 else 0)

    def forward(self, image: Tensor) -> Tensor:
        return F.silu(self.conv(image))


class _Block(nn.Module):
    """Upsample, convolve, cut to a window, join the skip, convolve."""

    def __init__(self, in_chans: int, skip_chans: int, out_chans: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.up = UpsampledConv2d(in_chans, out_chans, factor)
        self.join = nn.Conv2d(out_chans + skip_chans, out_chans, 3, padding=1)

    def forward(self, x: Tensor, skip: Tensor | None, window: Window) -> Tensor:
        x = F.silu(self.up(x)[(..., *window.slices)])
        if skip is not None:
            x = torch.cat([x, skip.to(x.dtype)], dim=1)
        return F.silu(self.join(x))
