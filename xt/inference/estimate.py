"""What predicting an image will take, found out by a trial of each stage and a look at some regions."""

import math
import resource
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from xt.data.address import shown
from xt.data.source import Source
from xt.errors import MemoryLimitError
from xt.geometry.grid import RegionGrid, Window
from xt.geometry.plan import ScenePlan
from xt.inference import engine, views
from xt.inference.first_pass import disk_bytes
from xt.inference.full_context import context_memory
from xt.inference.precision import Precision, computing
from xt.inference.regions import shapes_of
from xt.inference.views import Views
from xt.malloc import return_free_memory
from xt.models.pyramid import FeaturePyramid
from xt.models.work import device_of
from xt.models.xt import XT
from xt.tasks.base import Product

AROUND = 192 << 20
"""Bytes for reading and writing, beside the model's work."""
LOOKED_AT = 48
"""Regions that are read to see how many have data."""


@dataclass(frozen=True)
class Trial:
    """One batch, one window and one piece with made-up pixels.

    Attributes:
        encode: Seconds of a batch.
        context: Seconds of a window.
        decode: Seconds of a piece.
        peak: Bytes of the process at its highest meanwhile, or until then where the system does not tell.
    """

    encode: float
    context: float
    decode: float
    peak: int


@dataclass(frozen=True)
class Estimate:
    """What an image will take.

    Attributes:
        image: Its name.
        height: Rows.
        width: Columns.
        regions: All of them.
        empty: Share of regions without data, judged by some.
        windows: Units of work.
        memory: Bytes of the process at its highest.
        disk: Bytes beside the result, at most.
        result: Bytes of the result, at most, overviews included.
        seconds: Of work.
    """

    image: str
    height: int
    width: int
    regions: int
    empty: float
    windows: int
    memory: int
    disk: int
    result: int
    seconds: float

    def __str__(self) -> str:
        memory, disk, result = map(_amount, (self.memory, self.disk, self.result))
        return (
            f"{self.image}: {self.height} × {self.width} px, {self.regions} regions, about {self.empty:.0%} without "
            f"data, {self.windows} windows; about {memory} of memory, up to {disk} of disk, {result} for the result, "
            f"about {_duration(self.seconds)}"
        )


def try_out(model: XT, plan: ScenePlan, full: bool, precision: Precision = "fp32") -> Trial:
    """Run each stage once, as large as a scene may make it; the process forgets what it took at its highest before.

    Args:
        model: On its device, in evaluation mode.
        plan: Of the scene.
        full: Whether the context mixes the whole scene; a row of regions is tried then.
        precision: In which the model computes.
    """
    side = 1 if full else min(plan.side, plan.grid.rows)
    wide = min(plan.side, plan.grid.cols)
    return_free_memory()
    forget_peak()
    rows, cols = map(min, engine.piece_on(device_of(model)), (plan.grid.height, plan.grid.width))
    with torch.inference_mode(), computing(precision, model):
        # What is loaded and compiled at a first run is no part of what each window takes.
        _run(model, plan, 1, (1, 1), (min(rows, model.region_size), min(cols, model.region_size)))
        seconds = _run(model, plan, min(plan.batch, plan.grid.cols), (side, wide), (rows, cols))
    return Trial(*seconds, peak_memory())


def _run(
    model: XT, plan: ScenePlan, batch: int, window: tuple[int, int], size: tuple[int, int]
) -> tuple[float, float, float]:
    """Encode some regions, mix a window of rows and columns of regions, decode a piece of a size; seconds of each."""
    device, side, encoder = device_of(model), model.region_size, model.region_encoder
    regions = torch.randn(batch, model.in_chans, side, side, device=device)
    start = time.perf_counter()
    maps = views.encode(model, regions)
    encode = _since(start, device)
    grid = RegionGrid(window[0] * side, window[1] * side, side)
    start = time.perf_counter()
    if model.dense:
        model.said(maps[-1].new_zeros(1, encoder.channels[-1], *(n * maps[-1].shape[-1] for n in window)), grid)
    context = _since(start, device)
    if model.dense:
        rows, cols = size
        piece = Window(min(rows, plan.grid.height - rows), min(cols, plan.grid.width - cols), rows, cols)
        around = plan.seen_from(piece, encoder.strides[-1])
        given = _zeros(model, RegionGrid(around.height, around.width, encoder.strides[-1]), maps)
        start = time.perf_counter()
        views.decode(model, given, piece.within(around))
    else:
        given = _zeros(model, grid, maps)
        start = time.perf_counter()
        views.decode(model, model.mix(given))
    return encode, context, _since(start, device)


def estimate(
    asked: Views, source: Source, product: Product, plan: ScenePlan, full: bool, budget: int, trial: Trial
) -> Estimate:
    """Say what an image will take.

    Args:
        asked: What the model is asked.
        source: The image.
        product: What is published.
        plan: As in :func:`try_out`.
        full: As in :func:`try_out`.
        budget: Bytes of encoded regions in memory.
        trial: Of :func:`try_out`.

    Raises:
        InputError: If a region that is looked at cannot be read.
    """
    grid, shapes, model, times = plan.grid, asked.shapes, asked.model, len(asked.turns)
    looked = np.unique(np.linspace(0, grid.num_regions - 1, LOOKED_AT).round().astype(int))
    start = time.perf_counter()
    with source:
        empty = float(np.mean([not source.read(grid.window(int(each)))[1].any() for each in looked]))
    reading = (time.perf_counter() - start) / len(looked) * grid.num_regions
    pixels = grid.height * grid.width
    batches = plan.num_batches * (1 - empty)
    work = batches * trial.encode * (2 if full else 1)
    work += (grid.rows if full else len(plan.work) * (1 - empty)) * trial.context
    pieces = math.ceil(pixels / math.prod(engine.piece_on(device_of(model)))) * (1 - empty)
    work += pieces * (trial.decode if model.dense else 0)
    overlap = min((plan.overlap + math.ceil(2 * plan.halo / grid.region_size)) * grid.cols, grid.num_regions)
    result = result_bytes(product, pixels)
    held = min(budget, shapes.nbytes * min(grid.num_regions, overlap + plan.side**2))
    if device_of(model).type == "cuda":
        held = 0  # they are on the GPU
    layout = grid.layout(model.region_encoder.strides[-1])
    return Estimate(
        shown(source.path), grid.height, grid.width, grid.num_regions, empty, len(plan.units),
        trial.peak + held + AROUND + (context_memory(model, layout) if full else 0),
        result + 2 * shapes.nbytes * overlap + (times * disk_bytes(model, plan) if full else 0), result,
        reading * (1 + full * times) + work * times,
    )  # fmt: skip


def result_bytes(product: Product, pixels: int) -> int:
    """Bytes of a result of so many pixels, at most, overviews included."""
    return int(pixels * product.pixel_bytes * 4 / 3)


def budget_within(limit: int, trial: Trial, region_bytes: int, default: int) -> int:
    """Bytes of encoded regions that may be in memory so that the process keeps to a limit.

    Raises:
        MemoryLimitError: If the work itself takes more; says how much.
    """
    left = limit - trial.peak - AROUND
    if left < region_bytes:
        needed = trial.peak + AROUND + region_bytes
        raise MemoryLimitError(
            f"--max-memory {limit >> 20} MiB cannot be kept: the model at work takes {needed >> 20} MiB; "
            "give more, or a smaller --tile"
        )
    return min(default, left)


def peak_memory() -> int:
    """Bytes of this process at its highest until now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Have :func:`peak_memory` count from now, so that an image is not charged with the one before; on Linux alone."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _zeros(model: XT, grid: RegionGrid, maps: tuple[torch.Tensor, ...]) -> FeaturePyramid:
    strides, height, width = model.strides, grid.padded_height, grid.padded_width
    image = maps[0].new_zeros(1, shapes_of(model).image[0], grid.height, grid.width)
    sizes = [(each.shape[1], height // stride, width // stride) for each, stride in zip(maps, strides, strict=True)]
    return FeaturePyramid(image, tuple(maps[0].new_zeros(1, *size) for size in sizes), strides, grid)


def _since(start: float, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _amount(size: int) -> str:
    if size >= 2**30:
        return f"{size / 2**30:.1f} GiB"
    return f"{size / 2**20:.{0 if size >= 10 << 20 else 1}f} MiB"


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
