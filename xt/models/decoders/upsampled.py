"""A 3 × 3 convolution of a map that is upsampled first, without the upsampled map."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class UpsampledConv2d(nn.Conv2d):
    """Upsampling to the nearest value, then a 3 × 3 convolution with a border of zeros, in one step.

    Each cell of the map reaches ``factor + 2`` cells of the result along a side, with sums of the weights, which is a
    transposed convolution: ``(factor + 2)² / factor²`` products for each of the result instead of 9.

    Args:
        in_chans: Channels of the map.
        out_chans: Channels of the result.
        factor: Cells of the result along a cell of the map.
    """

    _taps: Tensor

    def __init__(self, in_chans: int, out_chans: int, factor: int) -> None:
        super().__init__(in_chans, out_chans, 3, padding=1)
        self.factor = factor
        reach = range(factor + 2)
        # Tap d of the result's cell p reads its cell p + d − 1, which lies in cell ⌊(p + d − 1) / factor⌋ of the map.
        taps = torch.tensor([[float(0 <= k + d - 2 < factor) for k in reach] for d in range(3)])
        self.register_buffer("_taps", torch.kron(taps, taps), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_chans, h, w)`` to ``(B, out_chans, factor · h, factor · w)``."""
        if self.factor == 1:
            return super().forward(x)
        side = self.factor + 2
        weight = rearrange(self.weight.flatten(2) @ self._taps, "o i (k l) -> i o k l", k=side)
        return F.conv_transpose2d(x, weight, self.bias, stride=self.factor, padding=1)
