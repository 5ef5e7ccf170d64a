"""Orders of a token sequence, as permutations of its indices.

The sequence is in raster order of the whole map. ``tokens[region_major(layout)]`` puts the tokens of each region
together; ``tokens[inverse(p)]`` undoes ``tokens[p]``. Extra tokens stay last in every order.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from xt.geometry.grid import TokenLayout

Indices = npt.NDArray[np.int64]
Order = Callable[[TokenLayout], Indices]


def _eager(function: Order) -> Order:
    """Have a compiler of PyTorch call the function; looking into it, it would take NumPy for operations of its own."""
    called: Order = torch.compiler.disable(function, reason="NumPy")  # type: ignore[no-untyped-call,unused-ignore]
    return called


def _cached(function: Order) -> Order:
    """Keep the last results, which nobody may change."""
    return _eager(lru_cache(maxsize=16)(function))


@_cached
def positions(layout: TokenLayout) -> Indices:
    """Row and column on the token map of each token that has a place: ``(num_tokens − num_extra, 2)``."""
    rows, cols = np.divmod(map_indices(layout), layout.width)
    return _frozen(np.stack([rows, cols], axis=1))


@_eager
def scene_positions(layout: TokenLayout) -> Indices:
    """Row and column in the whole scene of each token that has a place: ``(num_tokens − num_extra, 2)``."""
    return positions(layout) + np.asarray(layout.origin, dtype=np.int64)


@_cached
def map_indices(layout: TokenLayout) -> Indices:
    """Index on the flattened (height · width) map of each token that has a place, ascending."""
    if layout.exists is None:
        return _frozen(np.arange(layout.height * layout.width, dtype=np.int64))
    regions = np.asarray(layout.exists, dtype=bool).reshape(layout.region_rows, layout.region_cols)
    on_map = regions.repeat(layout.side, axis=0).repeat(layout.side, axis=1)
    return _frozen(np.flatnonzero(on_map).astype(np.int64))


@_cached
def region_indices(layout: TokenLayout) -> Indices:
    """Region (raster order of regions) of each token that has a place."""
    place = positions(layout)
    return _frozen(place[:, 0] // layout.side * layout.region_cols + place[:, 1] // layout.side)


@_cached
def region_major(layout: TokenLayout) -> Indices:
    """Permutation that groups tokens by region: regions in raster order, raster order inside each."""
    order = np.argsort(region_indices(layout), kind="stable")
    extra = np.arange(len(order), layout.num_tokens)
    return _frozen(np.concatenate([order, extra]).astype(np.int64))


@_cached
def column_major(layout: TokenLayout) -> Indices:
    """Permutation that reads the map column by column, each from the top."""
    place = positions(layout)
    order = np.lexsort((place[:, 0], place[:, 1]))
    extra = np.arange(len(order), layout.num_tokens)
    return _frozen(np.concatenate([order, extra]).astype(np.int64))


def inverse(permutation: Indices) -> Indices:
    """Permutation that undoes another: ``x[p][inverse(p)]`` is ``x``."""
    result = np.empty_like(permutation)
    result[permutation] = np.arange(len(permutation), dtype=permutation.dtype)
    return result


def _frozen(array: Indices) -> Indices:
    # Cached arrays are shared between callers.
    array.setflags(write=False)
    return array
