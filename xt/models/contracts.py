"""What the parts of a model promise, looked at where they are built and used.

A part of one's own that keeps no promise is told in one line, instead of a failure far from it or a result that is
wrong. Shapes and types alone are compared, which costs nothing; :mod:`xt.testing` tries out the rest.
"""

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from xt.errors import ModelError
from xt.models.context.base import ContextEncoder
from xt.models.decoders.base import Decoder, DenseDecoder, PooledDecoder
from xt.models.region.base import RegionEncoder

Part = RegionEncoder | ContextEncoder | Decoder

NUMBERS = {
    RegionEncoder: ("in_chans", "region_size"),
    ContextEncoder: ("dim",),
    DenseDecoder: ("out_channels", "stride", "halo"),
    PooledDecoder: ("out_channels", "uses_class_token"),
}
"""Whole numbers that a constructor sets."""
LISTS = ("channels", "strides")
"""Of a region encoder, one number for each map."""


def check_part(part: Part) -> None:
    """Look at what the constructor of a part has set.

    Raises:
        ModelError: If something is missing or no number.
    """
    name = type(part).__name__
    if isinstance(part, Decoder) and not isinstance(part, DenseDecoder | PooledDecoder):
        raise ModelError(f"{name} is neither a DenseDecoder nor a PooledDecoder")
    numbers = [each for kind, names in NUMBERS.items() if isinstance(part, kind) for each in names]
    lists = LISTS if isinstance(part, RegionEncoder) else ()
    for each in (*numbers, *lists):
        if not hasattr(part, each):
            raise ModelError(f"{name} has no {each}, which its constructor must set")
    for each in numbers:
        if not isinstance(getattr(part, each), Integral):
            raise ModelError(f"{name}: {each} is {getattr(part, each)!r}; it must be a whole number")
    if lists:
        channels, strides = ([*getattr(part, each)] for each in LISTS)
        if (
            not strides
            or len(channels) != len(strides)
            or not all(isinstance(n, Integral) for n in (*channels, *strides))
        ):
            raise ModelError(f"{name}: channels {channels} and strides {strides} must be a number for each of its maps")


def check_maps(encoder: RegionEncoder, maps: Sequence[Tensor], regions: Tensor) -> None:
    """Compare what a region encoder gave for regions ``(N, C, R, R)`` with its channels and strides.

    Raises:
        ModelError: If it is anything else.
    """
    name, side = type(encoder).__name__, regions.shape[-1]
    sizes = zip(encoder.channels, encoder.strides, strict=True)
    wanted = [(len(regions), channels, side // stride, side // stride) for channels, stride in sizes]
    why = f" by its channels {tuple(encoder.channels)} and strides {tuple(encoder.strides)}"
    if not isinstance(maps, Sequence) or len(maps) != len(wanted):
        given = f"{len(maps)} maps" if isinstance(maps, Sequence) else f"a {type(maps).__name__}"
        raise ModelError(f"{name} gives {given}, and must give a list of {len(wanted)} maps{why}")
    for each, want in zip(maps, wanted, strict=True):
        _check(f"{name}: a map", each, want, regions.dtype, why)


def check_mixed(encoder: ContextEncoder, mixed: Tensor, shape: Sequence[int], dtype: torch.dtype) -> None:
    """Compare what a context encoder gave with the tokens ``(B, L, D)`` that it got, of that type.

    Raises:
        ModelError: If it is anything else.
    """
    _check(f"{type(encoder).__name__}: what it gives", mixed, tuple(shape), dtype, " as the tokens that it gets")


def check_decoded(decoder: DenseDecoder, features: Tensor, image: Tensor, size: tuple[int, int]) -> None:
    """Compare the map that a decoder gave for an image with the channels and the size that it must have.

    Raises:
        ModelError: If it is anything else.
    """
    want = (len(image), decoder.out_channels, *size)
    why = f" by its out_channels and stride {decoder.stride}"
    _check(f"{type(decoder).__name__}: its map", features, want, image.dtype, why)


def check_sums(sums: Tensor) -> Tensor:
    """Return what a loss summed over a tile in float32.

    Raises:
        ModelError: If it is no list of sums.
    """
    if not isinstance(sums, Tensor) or sums.ndim != 1:
        raise ModelError(f"the statistics of a loss are {_shown(sums)}; they must be a tensor (K,) of sums")
    return sums.float()


def _check(what: str, given: Tensor, want: tuple[int, ...], dtype: torch.dtype, why: str) -> None:
    if torch.compiler.is_compiling():
        return
    wide = isinstance(given, Tensor) and given.dtype == torch.float64 != dtype
    if wide or not isinstance(given, Tensor) or not given.is_floating_point() or tuple(given.shape) != want:
        raise ModelError(f"{what} is {_shown(given)}, and must be {_plain(dtype)} {want}{why}")


def _shown(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{_plain(value.dtype)} {tuple(value.shape)}"


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
