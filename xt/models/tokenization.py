"""Cut images into regions, stitch regions into maps, and turn maps into tokens and back."""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from xt.errors import ModelError
from xt.geometry import order
from xt.geometry.grid import RegionGrid, TokenLayout, Window


def crop_padded(image: Tensor, window: Window) -> Tensor:
    """Crop a window that may reach over the image's border; what lies outside is zero.

    Args:
        image: ``(B, C, H, W)``.
        window: Any rectangle with at least one pixel.

    Returns:
        ``(B, C, window.height, window.width)``.
    """
    inside = window.clip(image.shape[-2], image.shape[-1])
    crop = image[..., *inside.slices]
    if inside == window:
        return crop
    if not inside.height or not inside.width:
        return image.new_zeros(*image.shape[:-2], window.height, window.width)
    left, top = inside.col - window.col, inside.row - window.row
    right, bottom = window.col_stop - inside.col_stop, window.row_stop - inside.row_stop
    return F.pad(crop, (left, right, top, bottom))


def cells(window: Window, stride: int) -> tuple[slice, slice]:
    """Rows and columns that a window of pixels, aligned to ``stride``, has on a map of that stride."""
    return (
        slice(window.row // stride, window.row_stop // stride),
        slice(window.col // stride, window.col_stop // stride),
    )


def cut(image: Tensor, grid: RegionGrid) -> Tensor:
    """Cut ``(B, C, H, W)`` into regions ``(B · rows · cols, C, R, R)``, image by image, zero-padded."""
    bottom, right = grid.padding
    padded = F.pad(image, (0, right, 0, bottom))
    return rearrange(padded, "b c (i r) (j s) -> (b i j) c r s", i=grid.rows, j=grid.cols)


def stitch(maps: Tensor, grid: RegionGrid) -> Tensor:
    """Stitch region maps ``(B · rows · cols, C, r, r)`` into ``(B, C, rows · r, cols · r)``."""
    return rearrange(maps, "(b i j) c r s -> b c (i r) (j s)", i=grid.rows, j=grid.cols)


def sequences(
    maps: Tensor, layout: TokenLayout, exists: Sequence[tuple[bool, ...]] | None
) -> list[tuple[Tensor, TokenLayout]]:
    """Split a batch of maps ``(B, D, h, w)`` into parts whose sequences have one length, each with its layout.

    Args:
        maps: Of images of one size.
        layout: Of all regions.
        exists: One flag per region for each image; None if all do.
    """
    if exists is None or all(all(each) for each in exists):
        return [(maps, layout)]
    return [(maps[i : i + 1], replace(layout, exists=each)) for i, each in enumerate(exists)]


def to_tokens(maps: Tensor, layout: TokenLayout) -> Tensor:
    """Take the tokens that exist from a map ``(B, D, h, w)`` as ``(B, L, D)`` in raster order."""
    tokens = rearrange(maps, "b d h w -> b (h w) d")
    if layout.exists is None:
        return tokens
    return tokens[:, _index(order.map_indices(layout), maps)]


def to_map(tokens: Tensor, layout: TokenLayout) -> Tensor:
    """Put tokens ``(B, L, D)`` (no extra ones) back on a map ``(B, D, h, w)``; what does not exist is zero."""
    if layout.exists is not None:
        full = tokens.new_zeros(tokens.shape[0], layout.height * layout.width, tokens.shape[2])
        tokens = full.index_copy(1, _index(order.map_indices(layout), tokens), tokens)
    return rearrange(tokens, "b (h w) d -> b d h w", h=layout.height)


def permute(tokens: Tensor, permutation: order.Indices) -> Tensor:
    """Reorder tokens ``(B, L, D)`` by a permutation from :mod:`xt.geometry.order`."""
    return tokens[:, _index(permutation, tokens)]


def existing(valid: Tensor, grid: RegionGrid, batch: int) -> list[tuple[bool, ...]]:
    """Tell which regions hold a valid pixel.

    Args:
        valid: ``(B, 1, H, W)`` or ``(B, H, W)`` bool.
        grid: The regions.
        batch: Images.

    Returns:
        One tuple of flags per image, in raster order of regions.

    Raises:
        ModelError: If ``valid`` is not of that size.
    """
    size = (batch, 1, grid.height, grid.width)
    if tuple(valid.shape) not in (size, (batch, *size[2:])):
        raise ModelError(f"valid is {tuple(valid.shape)}; with these images it must be {size}")
    mask = valid.reshape(valid.shape[0], 1, *valid.shape[-2:])
    regions = cut(mask, grid).flatten(1).any(dim=1).reshape(valid.shape[0], -1)
    flags: Sequence[Sequence[bool]] = regions.tolist()
    return [tuple(row) for row in flags]


def _index(indices: order.Indices, like: Tensor) -> Tensor:
    # The cached numpy array is read-only; torch.tensor copies it.
    return torch.tensor(indices, device=like.device)
