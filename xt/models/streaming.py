"""Encode regions a few at a time, with exact gradients, in memory that the image does not set.

Regions here, and tiles in :mod:`xt.models.tiles`, are worked on in two passes. Forward runs every chunk without
recording it and keeps the results only; backward runs each chunk again, now recorded, with the random state it had,
and pushes the gradient of its results through. What is kept between the passes is the feature pyramid (and, in
backward, its gradient), never the activations of more than one chunk. The gradient is that of plain autograd up to the
order of additions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from xt.errors import ModelError
from xt.geometry.grid import RegionGrid
from xt.models.contracts import check_maps
from xt.models.progress import Listener, current, told
from xt.models.region.base import RegionEncoder
from xt.models.replay import Replay, Weights, accumulate
from xt.models.tokenization import cells, crop_padded, cut, stitch

Exists = Sequence[tuple[bool, ...]]
"""One flag per region for each image of a batch."""


def encode(
    encoder: RegionEncoder, image: Tensor, grid: RegionGrid, exists: Exists | None, first: int, region_batch: int
) -> list[Tensor]:
    """Encode all regions, ``region_batch`` at a time, into one stitched pyramid.

    Args:
        encoder: Treats the regions of a batch independently.
        image: ``(B, C, H, W)``.
        grid: Regions of an image of H × W.
        exists: Which regions to encode; the features of the others are zero. None encodes all.
        first: The finest map to keep; finer ones are let go of, region by region.
        region_batch: Regions encoded together, ≥ 1.

    Returns:
        Maps ``(B, channels[i], padded_height / strides[i], padded_width / strides[i])``, from ``first`` on.
    """
    places = [
        (item, region)
        for item in range(image.shape[0])
        for region in range(grid.num_regions)
        if exists is None or exists[item][region]
    ]
    chunks = [places[start : start + region_batch] for start in range(0, len(places), region_batch)]
    weights = Weights([encoder])
    records = torch.is_grad_enabled() and (bool(weights.trained) or image.requires_grad)
    complete = len(places) == image.shape[0] * grid.num_regions
    run = _EncodeRun(encoder, grid, chunks, complete, records, weights, first)
    return list(_Encode.apply(run, image, *weights.trained))


def encode_at_once(
    encoder: RegionEncoder, image: Tensor, grid: RegionGrid, exists: Exists | None, first: int
) -> list[Tensor]:
    """Do what :func:`encode` does with all regions in one batch and plain autograd."""
    maps = _maps(encoder, cut(image, grid), first)
    if exists is not None:
        keep = torch.tensor([flag for each in exists for flag in each], device=image.device)
        maps = [each * keep[:, None, None, None].to(each) for each in maps]
    return [stitch(each, grid) for each in maps]


def _maps(encoder: RegionEncoder, regions: Tensor, first: int) -> Sequence[Tensor]:
    maps: Sequence[Tensor] = encoder(regions)
    check_maps(encoder, maps, regions)
    return maps[first:]


def refuse_sharded(module: nn.Module) -> None:
    """Refuse to train parameters that FSDP2 shards: streaming pushes their gradients by hand, which FSDP does not see.

    Without gradients they are fine. Seen is what the module and its parts are sharded by, not a module around it.

    Raises:
        ModelError: If any is sharded.
    """
    if not torch.is_grad_enabled():
        return
    types = {type(each) for each in (*module.modules(), *module.parameters())}
    if {"FSDPModule", "DTensor"} & {base.__name__ for each in types for base in each.__mro__}:
        raise ModelError(
            "parameters sharded by FSDP2 (fully_shard) would get no gradient from streaming; keep them whole, as "
            "DistributedDataParallel does"
        )


@dataclass
class _EncodeRun:
    encoder: RegionEncoder
    grid: RegionGrid
    chunks: list[list[tuple[int, int]]]
    complete: bool
    records: bool
    weights: Weights
    first: int
    listener: Listener | None = field(default_factory=current)
    replays: list[Replay] = field(default_factory=list)

    @property
    def strides(self) -> Sequence[int]:
        """Of the maps that are kept."""
        return self.encoder.strides[self.first :]

    def encoded(self, regions: Tensor) -> Sequence[Tensor]:
        return _maps(self.encoder, regions, self.first)

    def cut(self, image: Tensor, chunk: list[tuple[int, int]]) -> Tensor:
        return torch.cat([crop_padded(image[i : i + 1], self.grid.window(r)) for i, r in chunk])

    def slices(self, region: int, stride: int) -> tuple[slice, slice]:
        return cells(self.grid.window(region), stride)

    def allocate(self, batch: int, like: Tensor, index: int) -> Tensor:
        stride = self.strides[index]
        shape = (
            batch,
            self.encoder.channels[self.first :][index],
            self.grid.padded_height // stride,
            self.grid.padded_width // stride,
        )
        return like.new_empty(shape) if self.complete else like.new_zeros(shape)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, run: _EncodeRun, image: Tensor, *unused: Tensor) -> tuple[Tensor, ...]:
        ctx.run = run  # type: ignore[attr-defined]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(image)  # so that a change of it in place is an error
        strides = run.strides
        pyramid: list[Tensor] = []
        for chunk in told(run.chunks, "encode regions", run.listener, len):
            if run.records:
                run.replays.append(Replay.capture(image.device))
            maps = run.encoded(run.cut(image, chunk))
            if not pyramid:
                pyramid = [run.allocate(image.shape[0], each, i) for i, each in enumerate(maps)]
            for full, part, stride in zip(pyramid, maps, strides, strict=True):
                for row, (item, region) in enumerate(chunk):
                    full[(item, slice(None), *run.slices(region, stride))] = part[row]
            del maps, part
        if not run.chunks:
            pyramid = [run.allocate(image.shape[0], image, i) for i in range(len(strides))]
        return tuple(pyramid)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        run: _EncodeRun = ctx.run  # type: ignore[attr-defined]
        (image,) = ctx.saved_tensors  # type: ignore[attr-defined]
        parameters = run.weights.trained
        image_grad = torch.zeros_like(image) if ctx.needs_input_grad[1] else None  # type: ignore[attr-defined]
        sums: list[Tensor | None] = [None] * len(parameters)
        replays = iter(run.replays)
        for chunk in told(run.chunks, "encode regions, backward", run.listener, len):
            replay = next(replays)
            with replay.restored(), run.weights.lent():
                regions = run.cut(image.detach(), chunk).requires_grad_(image_grad is not None)
                maps = run.encoded(regions)
            used = [
                (each, _gather(grad, chunk, run, stride))
                for each, grad, stride in zip(maps, grads, run.strides, strict=True)
                if grad is not None and each.requires_grad
            ]
            if not used:
                continue
            wanted = [*parameters, *([regions] if image_grad is not None else [])]
            outputs, output_grads = zip(*used, strict=True)
            found = torch.autograd.grad(outputs, wanted, output_grads, allow_unused=True)
            if image_grad is not None and found[-1] is not None:
                _scatter(image_grad, found[-1], chunk, run.grid)
            accumulate(sums, found[: len(parameters)])
        return (None, image_grad, *sums)


def _gather(grad: Tensor, chunk: list[tuple[int, int]], run: _EncodeRun, stride: int) -> Tensor:
    return torch.stack([grad[(item, slice(None), *run.slices(region, stride))] for item, region in chunk])


def _scatter(image_grad: Tensor, region_grads: Tensor, chunk: list[tuple[int, int]], grid: RegionGrid) -> None:
    for row, (item, region) in enumerate(chunk):
        inside = grid.clipped(region)
        image_grad[(item, slice(None), *inside.slices)] += region_grads[row, :, : inside.height, : inside.width]
