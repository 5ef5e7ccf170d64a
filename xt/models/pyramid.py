"""What the stages of a model hand on to each other."""

from dataclasses import dataclass

from torch import Tensor

from xt.errors import ModelError
from xt.geometry.grid import RegionGrid


@dataclass(frozen=True, eq=False)
class FeaturePyramid:
    """The encoded regions of a batch of images, and all that decoding them takes; :func:`dataclasses.replace` edits it.

    Attributes:
        image: ``(B, C, H, W)`` that the maps were made of; decoders take skips from it.
        maps: ``(B, channels[i], padded H / strides[i], padded W / strides[i])``, finest first.
        strides: Pixels per cell of each map.
        grid: Regions of an image of H × W; its ``origin`` says where in the whole scene the image lies.
        exists: One flag per region for each image, or None when all exist. The maps of the others are zero.
        tokens: What a pooled model mixed, ``(b, L, dim)`` with a class token last; sequences of unequal length apart.
        prepared: Whether the decoder's ``prepare`` has run on the maps.

    Raises:
        ModelError: If sizes do not fit each other.
    """

    image: Tensor
    maps: tuple[Tensor, ...]
    strides: tuple[int, ...]
    grid: RegionGrid
    exists: tuple[tuple[bool, ...], ...] | None = None
    tokens: tuple[Tensor, ...] = ()
    prepared: bool = False

    def __post_init__(self) -> None:
        """Check sizes."""
        grid, batch = self.grid, self.image.shape[0]
        if self.image.shape[-2:] != (grid.height, grid.width):
            raise ModelError(
                f"image {tuple(self.image.shape)} is not of {grid.height} × {grid.width} px, as its grid is"
            )
        sizes = [(batch, grid.padded_height // stride, grid.padded_width // stride) for stride in self.strides]
        found = [(each.shape[0], *each.shape[-2:]) for each in self.maps]
        if found != sizes:
            raise ModelError(f"maps at strides {self.strides} must be (B, h, w) {sizes}, got {found}")
        if self.exists is not None and [len(each) for each in self.exists] != [grid.num_regions] * batch:
            raise ModelError(f"exists needs {grid.num_regions} flags for each of {batch} images")

    @property
    def origin(self) -> tuple[int, int]:
        """Row and column of the image's first pixel in the whole scene."""
        return self.grid.origin
