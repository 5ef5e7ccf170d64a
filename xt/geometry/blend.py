"""Overlapping tiles along one axis, and the weights that blend them."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from xt.errors import GeometryError

Blend = Literal["cosine", "linear", "none"]


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Starts of tiles of size ``tile`` that cover ``0 … length − 1`` and overlap by at least ``overlap``.

    The last tile is moved back to end at ``length``; an axis shorter than a tile has one tile at 0.

    Raises:
        GeometryError: If the overlap is not smaller than the tile.
    """
    if not 0 <= overlap < tile:
        raise GeometryError(f"overlap {overlap} px must be at least 0 and smaller than the tile of {tile} px")
    if length <= tile:
        return [0]
    step = tile - overlap
    starts = list(range(0, length - tile, step))
    return [*starts, length - tile]


def axis_weights(starts: list[int], tile: int, length: int, blend: Blend) -> list[npt.NDArray[np.float32]]:
    """Weights of each tile along one axis, such that the weights of all tiles sum to 1 at every pixel.

    Args:
        starts: As :func:`tile_starts` gives them.
        tile: Tile size in pixels.
        length: Pixels along the axis.
        blend: ``"cosine"`` and ``"linear"`` fade over each overlap; ``"none"`` cuts it in the middle.

    Returns:
        One array per tile, of ``min(tile, length)`` weights.
    """
    size = min(tile, length)
    weights = [np.ones(size, dtype=np.float64) for _ in starts]
    for left in range(len(starts) - 1):
        overlap = starts[left] + size - starts[left + 1]
        if overlap <= 0:
            continue
        ramp = (np.arange(overlap) + 0.5) / overlap
        if blend == "cosine":
            ramp = 0.5 - 0.5 * np.cos(np.pi * ramp)
        elif blend == "none":
            ramp = (ramp >= 0.5).astype(np.float64)
        weights[left][size - overlap :] *= 1 - ramp
        weights[left + 1][:overlap] *= ramp
    # The last tile is moved back, so up to three tiles may meet at a pixel: normalise.
    total = np.zeros(length)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + size] += weight
    return [
        (weight / total[start : start + size]).astype(np.float32) for start, weight in zip(starts, weights, strict=True)
    ]
