"""Encode regions and decode tiles a few at a time, with exact gradients, in memory that the image does not set.

Both functions here work in two passes. Forward runs every chunk without recording it and keeps the results only;
backward runs each chunk again, now recorded, with the random state it had, and pushes the gradient of its results
through. What is kept between the passes is the feature pyramid (and, in backward, its gradient), never the
activations of more than one chunk. The gradient is that of plain autograd up to the order of additions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from xt.errors import ModelError
from xt.geometry.grid import RegionGrid, Window
from xt.models.progress import Listener, current, told
from xt.models.region.base import RegionEncoder
from xt.models.replay import Replay
from xt.models.tokenization import crop_padded

Exists = Sequence[tuple[bool, ...]]
"""One flag per region for each image of a batch."""
TileFunction = Callable[[Window, Sequence[Tensor]], Tensor]
"""Maps a tile, given the tensors cut to it, to a vector of sums ``(K,)``."""


def encode(
    encoder: RegionEncoder, image: Tensor, grid: RegionGrid, exists: Exists | None, region_batch: int
) -> list[Tensor]:
    """Encode all regions, ``region_batch`` at a time, into one stitched pyramid.

    Args:
        encoder: Treats the regions of a batch independently.
        image: ``(B, C, H, W)``.
        grid: Regions of an image of H × W.
        exists: Which regions to encode; the features of the others are zero. None encodes all.
        region_batch: Regions encoded together, ≥ 1.

    Returns:
        Maps ``(B, channels[i], padded_height / strides[i], padded_width / strides[i])``, finest first.
    """
    places = [
        (item, region)
        for item in range(image.shape[0])
        for region in range(grid.num_regions)
        if exists is None or exists[item][region]
    ]
    chunks = [places[start : start + region_batch] for start in range(0, len(places), region_batch)]
    parameters = _trained([encoder])
    records = torch.is_grad_enabled() and (bool(parameters) or image.requires_grad)
    complete = len(places) == image.shape[0] * grid.num_regions
    run = _EncodeRun(encoder, grid, chunks, complete, records)
    return list(_Encode.apply(run, parameters, image, *parameters))


def reduce_tiles(
    fn: TileFunction,
    tiles: Sequence[tuple[Window, Window]],
    tensors: Sequence[Tensor],
    strides: Sequence[int],
    modules: Sequence[nn.Module],
) -> Tensor:
    """Sum ``fn`` over tiles, each given the tensors cut to it.

    Args:
        fn: Called with a tile's inner window and the cut tensors; must be differentiable in both them and the
            parameters of ``modules``.
        tiles: Inner and outer window of each tile, in pixels; the outer one is cut from the tensors.
        tensors: ``(B, C, H / stride, W / stride)``.
        strides: Pixels per cell of each tensor.
        modules: Everything whose parameters ``fn`` uses.

    Returns:
        ``(K,)`` float32.
    """
    parameters = _trained(modules)
    records = torch.is_grad_enabled() and (bool(parameters) or any(each.requires_grad for each in tensors))
    run = _ReduceRun(fn, list(tiles), list(strides), len(parameters), records)
    total: Tensor = _Reduce.apply(run, *parameters, *tensors)
    return total


def cut_all(tensors: Sequence[Tensor], strides: Sequence[int], window: Window) -> list[Tensor]:
    """Cut a window of pixels from tensors of several strides; the image (stride 1) is zero beyond its border."""
    return [
        crop_padded(tensor, window) if stride == 1 else tensor[(..., *_cells(window, stride))]
        for tensor, stride in zip(tensors, strides, strict=True)
    ]


def refuse_sharded(module: nn.Module) -> None:
    """Refuse to train parameters that FSDP2 shards: streaming pushes their gradients by hand, which FSDP does not see.

    Seen is what the module and its parts are sharded by, not a module around it.

    Raises:
        ModelError: If any is sharded.
    """
    types = {type(each) for each in (*module.modules(), *module.parameters())}
    if {"FSDPModule", "DTensor"} & {base.__name__ for each in types for base in each.__mro__}:
        raise ModelError(
            "parameters sharded by FSDP2 (fully_shard) would get no gradient from streaming; keep them whole, as "
            "DistributedDataParallel does"
        )


def _trained(modules: Sequence[nn.Module]) -> list[Tensor]:
    """Parameters that get a gradient."""
    return [p for module in modules for p in module.parameters() if p.requires_grad]


@dataclass
class _EncodeRun:
    encoder: RegionEncoder
    grid: RegionGrid
    chunks: list[list[tuple[int, int]]]
    complete: bool
    records: bool
    listener: Listener | None = field(default_factory=current)
    replays: list[Replay] = field(default_factory=list)

    def cut(self, image: Tensor, chunk: list[tuple[int, int]]) -> Tensor:
        return torch.cat([crop_padded(image[i : i + 1], self.grid.window(r)) for i, r in chunk])

    def slices(self, region: int, stride: int) -> tuple[slice, slice]:
        window = self.grid.window(region)
        return _cells(window, stride)

    def allocate(self, batch: int, like: Tensor, index: int) -> Tensor:
        stride = self.encoder.strides[index]
        shape = (
            batch,
            self.encoder.channels[index],
            self.grid.padded_height // stride,
            self.grid.padded_width // stride,
        )
        return like.new_empty(shape) if self.complete else like.new_zeros(shape)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, run: _EncodeRun, parameters: list[Tensor], image: Tensor, *unused: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.run, ctx.parameters, ctx.image = run, parameters, image  # type: ignore[attr-defined]
        ctx.set_materialize_grads(False)
        strides = run.encoder.strides
        pyramid: list[Tensor] = []
        for chunk in told(run.chunks, "encode regions", run.listener, len):
            if run.records:
                run.replays.append(Replay.capture(image.device))
            maps = run.encoder(run.cut(image, chunk))
            if not pyramid:
                pyramid = [run.allocate(image.shape[0], each, i) for i, each in enumerate(maps)]
            for full, part, stride in zip(pyramid, maps, strides, strict=True):
                for row, (item, region) in enumerate(chunk):
                    full[(item, slice(None), *run.slices(region, stride))] = part[row]
            del maps
        if not run.chunks:
            pyramid = [run.allocate(image.shape[0], image, i) for i in range(len(strides))]
        return tuple(pyramid)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        run: _EncodeRun = ctx.run  # type: ignore[attr-defined]
        parameters: list[Tensor] = ctx.parameters  # type: ignore[attr-defined]
        image: Tensor = ctx.image  # type: ignore[attr-defined]
        image_grad = torch.zeros_like(image) if ctx.needs_input_grad[2] else None  # type: ignore[attr-defined]
        sums: list[Tensor | None] = [None] * len(parameters)
        replays = iter(run.replays)
        for chunk in told(run.chunks, "encode regions, backward", run.listener, len):
            replay = next(replays)
            with replay.restored():
                regions = run.cut(image.detach(), chunk).requires_grad_(image_grad is not None)
                maps = run.encoder(regions)
            used = [
                (each, _gather(grad, chunk, run, stride))
                for each, grad, stride in zip(maps, grads, run.encoder.strides, strict=True)
                if grad is not None and each.requires_grad
            ]
            if not used:
                continue
            wanted = [*parameters, *([regions] if image_grad is not None else [])]
            outputs, output_grads = zip(*used, strict=True)
            found = torch.autograd.grad(outputs, wanted, output_grads, allow_unused=True)
            if image_grad is not None and found[-1] is not None:
                _scatter(image_grad, found[-1], chunk, run.grid)
            _accumulate(sums, found[: len(parameters)])
        return (None, None, image_grad, *sums)


def _gather(grad: Tensor, chunk: list[tuple[int, int]], run: _EncodeRun, stride: int) -> Tensor:
    return torch.stack([grad[(item, slice(None), *run.slices(region, stride))] for item, region in chunk])


def _scatter(image_grad: Tensor, region_grads: Tensor, chunk: list[tuple[int, int]], grid: RegionGrid) -> None:
    for row, (item, region) in enumerate(chunk):
        inside = grid.clipped(region)
        image_grad[(item, slice(None), *inside.slices)] += region_grads[row, :, : inside.height, : inside.width]


def _accumulate(sums: list[Tensor | None], found: Sequence[Tensor | None]) -> None:
    for index, grad in enumerate(found):
        if grad is not None:
            total = sums[index]
            sums[index] = grad if total is None else total.add_(grad)


def _cells(window: Window, stride: int) -> tuple[slice, slice]:
    return (
        slice(window.row // stride, window.row_stop // stride),
        slice(window.col // stride, window.col_stop // stride),
    )


@dataclass
class _ReduceRun:
    fn: TileFunction
    tiles: list[tuple[Window, Window]]
    strides: list[int]
    num_parameters: int
    records: bool
    listener: Listener | None = field(default_factory=current)
    replays: list[Replay] = field(default_factory=list)

    def cut(self, tensors: Sequence[Tensor], outer: Window) -> list[Tensor]:
        return cut_all(tensors, self.strides, outer)


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, run: _ReduceRun, *inputs: Tensor) -> Tensor:
        ctx.run = run  # type: ignore[attr-defined]
        ctx.save_for_backward(*inputs)  # unlike an attribute, freed before the regions are encoded again
        tensors = inputs[run.num_parameters :]
        parts = []
        for inner, outer in told(run.tiles, "decode tiles", run.listener):
            if run.records:
                run.replays.append(Replay.capture(tensors[0].device))
            parts.append(run.fn(inner, run.cut(tensors, outer)).float())
        return torch.stack(parts).sum(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        run: _ReduceRun = ctx.run  # type: ignore[attr-defined]
        inputs: tuple[Tensor, ...] = ctx.saved_tensors  # type: ignore[attr-defined]
        parameters, tensors = inputs[: run.num_parameters], inputs[run.num_parameters :]
        needs = ctx.needs_input_grad[1 + run.num_parameters :]  # type: ignore[attr-defined]
        full = [torch.zeros_like(t) if need else None for t, need in zip(tensors, needs, strict=True)]
        sums: list[Tensor | None] = [None] * len(parameters)
        replays = iter(run.replays)
        for inner, outer in told(run.tiles, "decode tiles, backward", run.listener):
            replay = next(replays)
            with replay.restored():
                parts = [part.detach() for part in run.cut([t.detach() for t in tensors], outer)]
                leaves = [part.requires_grad_(need) for part, need in zip(parts, needs, strict=True)]
                total = run.fn(inner, leaves).float()
            if not total.requires_grad:
                continue
            wanted = [*parameters, *(leaf for leaf in leaves if leaf.requires_grad)]
            found = list(torch.autograd.grad(total, wanted, grad, allow_unused=True))
            _accumulate(sums, found[: len(parameters)])
            rest = iter(found[len(parameters) :])
            for target, stride in zip(full, run.strides, strict=True):
                part_grad = next(rest) if target is not None else None
                if target is not None and part_grad is not None:
                    _add_at(target, part_grad, outer, stride)
        return (None, *sums, *full)


def _add_at(target: Tensor, part: Tensor, outer: Window, stride: int) -> None:
    if stride != 1:
        target[(..., *_cells(outer, stride))] += part
        return
    inside = outer.clip(target.shape[-2], target.shape[-1])
    top, left = inside.row - outer.row, inside.col - outer.col
    target[(..., *inside.slices)] += part[..., top : top + inside.height, left : left + inside.width]
