"""Decode tiles one at a time, with exact gradients; what they give is added up or placed side by side.

A tile has an inner window, which is its share of the result, and an outer one, which is what it is decoded from: the
inner one on whole cells of the coarsest map, and the decoder's reach around it. The two passes are those of
:mod:`xt.models.streaming`.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from xt.errors import XTWarning
from xt.geometry.grid import RegionGrid, Window
from xt.models.contracts import check_decoded
from xt.models.decoders.base import DenseDecoder
from xt.models.progress import Listener, current, told
from xt.models.replay import Replay, Weights, accumulate
from xt.models.tokenization import cells, crop_padded


@dataclass(frozen=True)
class Tile:
    """The window that a tile answers for, and the one that it is decoded from, in pixels."""

    inner: Window
    outer: Window


Outputs = tuple[Tensor, ...]
TileFunction = Callable[[Tile, Sequence[Tensor]], Outputs]
"""Maps a tile, given the tensors cut to its outer window, to tensors; differentiable."""


def cut_tiles(window: Window, grid: RegionGrid, size: int, coarsest: int, halo: int) -> list[Tile]:
    """Cut a window of an image along a raster of ``size`` × ``size`` px that starts at the window's first pixel.

    Args:
        window: Inside the image.
        grid: Regions of the image.
        size: A multiple of ``coarsest``.
        coarsest: Pixels per cell of the coarsest map.
        halo: The decoder's reach in pixels, a multiple of ``coarsest``.
    """
    rows, cols = (
        list(pairwise([*range(start, stop, size), stop]))
        for start, stop in ((window.row, window.row_stop), (window.col, window.col_stop))
    )
    tiles = []
    for top, bottom in rows:
        for left, right in cols:
            row, col = top // coarsest * coarsest, left // coarsest * coarsest
            height, width = (-(-n // coarsest) * coarsest for n in (bottom - row, right - col))
            outer = Window(row, col, height, width).grow(halo).clip(grid.padded_height, grid.padded_width)
            tiles.append(Tile(Window(top, left, bottom - top, right - left), outer))
    return tiles


def decode_tiles(
    fn: TileFunction,
    tiles: Sequence[Tile],
    tensors: Sequence[Tensor],
    strides: Sequence[int],
    modules: Sequence[nn.Module],
    window: Window | None = None,
    recompute: bool = True,
) -> Outputs:
    """Run ``fn`` on each tile and add up what it gives, or place it side by side.

    Args:
        fn: Its gradient may go to the tensors and ``modules`` only.
        tiles: At least one.
        tensors: ``(B, C, H / stride, W / stride)``; that of stride 1 is zero beyond its border.
        strides: Pixels per cell of each tensor.
        modules: Everything whose parameters ``fn`` uses.
        window: What is placed; the inner windows cover it, and ``fn`` gives maps ``(B, n, inner height, inner width)``.
            None adds up: ``fn`` gives the same shapes for every tile.
        recompute: Decode each tile again in backward; False lets autograd keep the activations of all.

    Returns:
        The sums, or maps ``(B, n, window.height, window.width)``.
    """
    run = _TileRun(fn, list(tiles), list(strides), window)
    if not recompute:
        return run.collect(run.decoded(tensors))
    run.weights = Weights(modules)
    parameters = run.weights.trained
    run.records = torch.is_grad_enabled() and (bool(parameters) or any(each.requires_grad for each in tensors))
    outputs: Outputs = _Tiles.apply(run, *parameters, *tensors)
    return outputs


def decode_tile(
    decoder: DenseDecoder, heads: nn.ModuleDict, tile: Tile, tensors: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Decode one tile from the image and the pyramid cut to it: head name → ``(B, n, inner height, inner width)``."""
    stride, inner = decoder.stride, tile.inner.within(tile.outer)
    if tensors[0].is_cuda:  # its convolutions take channels last, and would turn every map there and back
        tensors = [each.contiguous(memory_format=torch.channels_last) for each in tensors]
    # Bilinear upsampling of the logits reads one cell more on each side.
    needed = inner.coarsened(stride).grow(1).clip(tile.outer.height // stride, tile.outer.width // stride)
    if decoder.takes_window:
        features = decoder(tensors[0], tensors[1:], needed)
        check_decoded(decoder, features, tensors[0], (needed.height, needed.width))
    else:
        features = decoder(tensors[0], tensors[1:])
        check_decoded(decoder, features, tensors[0], (tile.outer.height // stride, tile.outer.width // stride))
        features = features[(..., *needed.slices)]
    size, place = (needed.height * stride, needed.width * stride), inner.within(needed.refined(stride))
    maps = {}
    for name, head in heads.items():
        full = F.interpolate(head(features).float(), size=size, mode="bilinear", align_corners=False)
        maps[name] = full[(..., *place.slices)]
    return maps


@dataclass
class _TileRun:
    fn: TileFunction
    tiles: list[Tile]
    strides: list[int]
    window: Window | None
    weights: Weights = field(default_factory=lambda: Weights([]))
    records: bool = False
    listener: Listener | None = field(default_factory=current)
    replays: list[Replay] = field(default_factory=list)

    def cut(self, tensors: Sequence[Tensor], outer: Window) -> list[Tensor]:
        return [
            crop_padded(tensor, outer) if stride == 1 else tensor[(..., *cells(outer, stride))]
            for tensor, stride in zip(tensors, self.strides, strict=True)
        ]

    def decoded(self, tensors: Sequence[Tensor]) -> Iterator[tuple[Tile, Outputs]]:
        for tile in told(self.tiles, "decode tiles", self.listener):
            if self.records:
                self.replays.append(Replay.capture(tensors[0].device))
            yield tile, self.fn(tile, self.cut(tensors, tile.outer))

    def collect(self, decoded: Iterable[tuple[Tile, Outputs]]) -> Outputs:
        if self.window is None:
            return tuple(torch.stack(parts).sum(0) for parts in zip(*(parts for _, parts in decoded), strict=True))
        whole: Outputs = ()
        for tile, parts in decoded:
            size = self.window.height, self.window.width
            whole = whole or tuple(part.new_empty(*part.shape[:-2], *size) for part in parts)
            for full, part in zip(whole, parts, strict=True):
                self.share(full, tile).copy_(part)
        return whole

    def share(self, result: Tensor, tile: Tile) -> Tensor:
        """A tile's part of the result or of its gradient; of a sum it is all."""
        if self.window is None:
            return result
        row, col = tile.inner.row - self.window.row, tile.inner.col - self.window.col
        return result[(..., *Window(row, col, tile.inner.height, tile.inner.width).slices)]


class _Tiles(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, run: _TileRun, *inputs: Tensor) -> Outputs:
        ctx.run = run  # type: ignore[attr-defined]
        ctx.set_materialize_grads(False)
        tensors = inputs[len(run.weights.trained) :]
        ctx.save_for_backward(*tensors)  # unlike an attribute, freed before the regions are encoded again
        return run.collect(run.decoded(tensors))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        run: _TileRun = ctx.run  # type: ignore[attr-defined]
        tensors: tuple[Tensor, ...] = ctx.saved_tensors  # type: ignore[attr-defined]
        parameters = run.weights.trained
        needs = ctx.needs_input_grad[1 + len(parameters) :]  # type: ignore[attr-defined]
        full = [torch.zeros_like(t) if need else None for t, need in zip(tensors, needs, strict=True)]
        sums: list[Tensor | None] = [None] * len(parameters)
        replays, taught = iter(run.replays), False
        for tile in told(run.tiles, "decode tiles, backward", run.listener):
            replay = next(replays)
            with replay.restored(), run.weights.lent():
                parts = [part.detach() for part in run.cut([t.detach() for t in tensors], tile.outer)]
                leaves = [part.requires_grad_(need) for part, need in zip(parts, needs, strict=True)]
                outputs = run.fn(tile, leaves)
            used = [
                (output, run.share(grad, tile))
                for output, grad in zip(outputs, grads, strict=True)
                if grad is not None and output.requires_grad
            ]
            if not used:
                continue
            taught = True
            wanted = [*parameters, *(leaf for leaf in leaves if leaf.requires_grad)]
            made, made_grads = zip(*used, strict=True)
            found = torch.autograd.grad(made, wanted, made_grads, allow_unused=True)
            accumulate(sums, found[: len(parameters)])
            rest = iter(found[len(parameters) :])
            for target, stride in zip(full, run.strides, strict=True):
                part_grad = next(rest) if target is not None else None
                if target is not None and part_grad is not None:
                    _add_at(target, part_grad, tile.outer, stride)
        if not taught and run.window is None and any(grad is not None for grad in grads):
            what = "the loss of a batch does not depend on the maps: nothing is learnt from it"
            warnings.warn(what, XTWarning, stacklevel=2)
        return (None, *sums, *full)


def _add_at(target: Tensor, part: Tensor, outer: Window, stride: int) -> None:
    if stride != 1:
        target[(..., *cells(outer, stride))] += part
        return
    # The image is padded at the bottom and right only, and an outer window begins inside it.
    inside = outer.clip(target.shape[-2], target.shape[-1])
    target[(..., *inside.slices)] += part[..., : inside.height, : inside.width]
