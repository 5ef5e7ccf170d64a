"""How much of an image a model works on at a time: what it was told, or else what its device needs to be busy."""

import math
from dataclasses import dataclass, replace

import torch
from torch import nn

from xt.errors import ModelError
from xt.models.region.base import RegionEncoder

LEAST, MOST = 2**18, 2**22
"""512 × 512 px, with which a core is busy, and 2048 × 2048 px, with which the largest GPU is."""
SMALLEST = 256
"""Side of a tile that is not halved: much more than half of it would be what its neighbours decode too."""
FULL = 64 * 2**30
"""Bytes of memory from which a GPU takes the most; training SwinV2-T in bf16 takes about a tenth of it then."""


def pixels_at_a_time(device: torch.device) -> int:
    """A power of two: on a GPU with half the memory half as many."""
    if device.type != "cuda":
        return LEAST
    memory: int = torch.cuda.get_device_properties(device).total_memory
    return min(MOST, max(LEAST, 1 << int(math.log2(MOST * memory / FULL))))


@dataclass(frozen=True)
class Given:
    """What a model was told; None leaves it to the device.

    Raises:
        ModelError: If a number is not at least 1.
    """

    region_batch: int | None = None
    decode_size: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is no size."""
        for name, number in vars(self).items():
            if number is not None and number < 1:
                raise ModelError(f"{name} {number} must be at least 1")


class Chunked(nn.Module):
    """The part of :class:`~xt.models.xt.XT` that knows how much is worked on at a time; results do not depend on it."""

    region_encoder: RegionEncoder
    _given: Given
    _halved = 0

    @property
    def region_size(self) -> int:
        """Side of a region in pixels."""
        return self.region_encoder.region_size

    @property
    def region_batch(self) -> int:
        """Regions encoded at a time."""
        at_a_time = pixels_at_a_time(device_of(self)) // self.region_size**2
        return max(1, (self._given.region_batch or at_a_time) >> self._halved)

    @region_batch.setter
    def region_batch(self, number: int) -> None:
        self._given, self._halved = replace(self._given, region_batch=number), 0

    @property
    def decode_size(self) -> int:
        """Side of the tiles that are decoded at a time, in pixels: a multiple of the coarsest stride."""
        side, coarsest = self._given.decode_size, self.region_encoder.strides[-1]
        side = side or 2 ** int(math.log2(pixels_at_a_time(device_of(self))) / 2)
        side = max(side >> self._halved, min(side, SMALLEST))
        return -(-side // coarsest) * coarsest

    @decode_size.setter
    def decode_size(self, side: int) -> None:
        self._given, self._halved = replace(self._given, decode_size=side), 0

    def work_on_less(self) -> bool:
        """Take half as much at a time from now on, since memory is full; whether that is possible."""
        before = self.region_batch, self.decode_size
        self._halved += 1
        return (self.region_batch, self.decode_size) != before


def device_of(model: nn.Module) -> torch.device:
    """Where the parameters are."""
    return next(model.parameters()).device
