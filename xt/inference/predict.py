"""Runs a model over a whole image and writes what its task publishes."""

import json
import math
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from xt.data.georeference import warn_without_place
from xt.data.labels import LabelTable, write_predictions
from xt.data.limits import LimitedSource
from xt.data.source import Source
from xt.errors import GeometryError, InputError
from xt.files import locked, replacing_all
from xt.geometry.grid import RegionGrid, Window
from xt.geometry.plan import ScenePlan
from xt.inference.cog import assemble
from xt.inference.creation import check_cog
from xt.inference.engine import Scene
from xt.inference.estimate import Estimate, Trial, budget_within, estimate, try_out
from xt.inference.first_pass import FirstPass, check_full_context
from xt.inference.journal import Journal, is_publishing, job, remove_job
from xt.inference.options import PredictOptions, Summary
from xt.inference.outputs import check_outputs, output_files, read_report, refuse_inputs
from xt.inference.parts import PartWriter
from xt.inference.points import write_points
from xt.inference.regions import shapes_of
from xt.inference.report import facts_of, tags_of, write_report
from xt.models.decoders.base import DenseDecoder
from xt.models.metadata import ModelMetadata
from xt.models.xt import XT
from xt.stopping import StopRequest
from xt.tasks.base import ImageTask, ObjectTask, Task
from xt.tasks.registry import task_of

BUDGET = 192 << 20
"""Bytes of encoded regions that are kept in memory; the others go to the disk until they are needed."""

SECOND_PASS = 2048
"""Pixels along a side of the windows in which a scene is decoded whose context is known."""


def predict_image(
    model: XT,
    metadata: ModelMetadata,
    path: Path,
    out: Path,
    options: PredictOptions,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stop: StopRequest | None = None,
) -> Summary:
    """Predict one image.

    Writes the raster of the task (:attr:`~xt.tasks.base.Task.product`), what the task has beside it (objects as
    ``.csv``, ``.gpkg`` and ``.geojson``; the answer for the whole image, a mean over windows, as ``.json``), and
    ``.report.json``.
    All appear when all are complete. A run that was cut off goes on where its last commit was.

    Args:
        model: On its device, in evaluation mode.
        metadata: Of the model.
        path: GeoTIFF or scene folder.
        out: GeoTIFF to write.
        options: How.
        progress: Called with regions done and regions in all.
        stop: Asked after each window; work up to there is kept.

    Raises:
        InputError: If the image cannot be read or does not fit the model.
        OutputError: If an output exists, cannot be written, is an input, or is held by another run.
        ConfigError: If an option is wrong.
        CheckpointError: If the model's task is not known.
    """
    task = task_of(metadata).eval()
    source = open_source(path, metadata, options)
    settings = check_cog(options.creation, task.product)
    plan = plan_of(model, metadata, source, options)
    if options.context == "full":
        check_full_context(model, plan, options.max_memory)
    files = output_files(out, task)
    refuse_inputs(files, [path])
    with ExitStack() as stack:
        for each in reversed(files):
            stack.enter_context(locked(each))
        check_outputs(files, options.overwrite or is_publishing(out), _bytes_needed(source, task))
        budget = _budget(model, plan, options)
        facts = facts_of(model, metadata, source, plan, options)
        with job(out, facts, options.restart) as journal:
            scene = _work(model, task, source, plan, journal, options, budget, progress, stop)
            return _publish(scene, files, out, settings, options, facts)


def done_before(model: XT, metadata: ModelMetadata, path: Path, out: Path, options: PredictOptions) -> Summary | None:
    """Return what an earlier run said of a result that this one would only make again; None if there is none.

    Args:
        model: As in :func:`predict_image`.
        metadata: As in :func:`predict_image`.
        path: As in :func:`predict_image`.
        out: As in :func:`predict_image`.
        options: As in :func:`predict_image`.

    Raises:
        InputError: If the image cannot be read or does not fit the model.
    """
    report = read_report(out)
    if report is None:
        return None
    source = open_source(path, metadata, options)
    facts = facts_of(model, metadata, source, plan_of(model, metadata, source, options), options)
    facts["creation"] = options.creation
    if json.loads(json.dumps(facts)) != {key: report.get(key) for key in facts}:
        return None
    with ExitStack() as stack:  # a kill may have come between the last name and the end of the job
        for each in reversed(output_files(out, task_of(metadata))):
            stack.enter_context(locked(each))
        remove_job(out)
    return Summary(**report["result"])


def open_source(path: Path, metadata: ModelMetadata, options: PredictOptions) -> Source:
    """Open an image as it is to be predicted.

    Raises:
        InputError: If it cannot be read or does not fit the model, or a limit does not fit it.
    """
    source = Source(path, metadata.inputs, options.bands, options.nodata, options.complex_abs)
    if options.aoi is None and options.mask is None and options.crop is None:
        return source
    return LimitedSource(source, options.aoi, options.mask, options.crop)


def plan_of(model: XT, metadata: ModelMetadata, source: Source, options: PredictOptions) -> ScenePlan:
    """Plan the work on an image.

    Raises:
        GeometryError: If the overlap is not smaller than the window.
    """
    size, decoder = model.region_size, model.decoder
    grid = RegionGrid(source.height, source.width, size)
    # What a decoder prepares is the window's own, and nothing beyond it is looked at.
    halo = decoder.halo if isinstance(decoder, DenseDecoder) and decoder.is_local else 0
    if options.context == "full":
        # The context has spoken: windows only say in which order the scene is decoded.
        return ScenePlan(grid, max(1, SECOND_PASS // size), 0, halo, model.region_batch)
    tile = options.tile or metadata.image_size
    if options.overlap is not None and not 0 <= options.overlap < tile:
        raise GeometryError(f"overlap {options.overlap} px must be at least 0 and smaller than the window of {tile} px")
    side = max(1, math.ceil(tile / size))
    shared = max(1, side // 8) if options.overlap is None else math.ceil(options.overlap / size)
    return ScenePlan(grid, side, min(shared, side - 1), halo, model.region_batch)


def _work(
    model: XT,
    task: Task,
    source: Source,
    plan: ScenePlan,
    journal: Journal,
    options: PredictOptions,
    budget: int,
    progress: Callable[[int, int], None],
    stop: StopRequest | None,
) -> Scene:
    mixed = None
    with ExitStack() as stack:
        if options.context == "full":
            first = FirstPass(model, source, plan, journal, options.fill_bad_tiles, progress, stop)
            mixed = stack.enter_context(first.run())
        writer = stack.enter_context(PartWriter(journal.subfolder("parts"), task.product))
        scene = Scene(
            model,
            task,
            source,
            plan,
            options.blend,
            journal,
            writer,
            budget,
            options.fill_bad_tiles,
            progress,
            stop,
            mixed,
        )
        scene.run()
    source.check_unchanged()
    if scene.counts.bad == scene.counts.regions:
        raise InputError(f"{source.path}: none of its {scene.counts.regions} regions can be read; fetch the file again")
    return scene


def _publish(
    scene: Scene, files: list[Path], out: Path, settings: dict[str, Any], options: PredictOptions, facts: dict[str, Any]
) -> Summary:
    """Join the parts, find objects, and give all files their names."""
    task, source, counts = scene.task, scene.source, scene.counts
    summary = Summary(str(source.path), str(out), counts.regions, counts.empty, counts.bad)
    profile = source.profile()
    with replacing_all(files) as partials:
        *beside, report, raster = partials
        with scene.timed("assemble"):
            assemble(scene.writer.parts, raster, profile, task.product, settings, tags_of(facts), out)
        if isinstance(task, ObjectTask):
            with scene.timed("objects"):
                table = _objects(task, raster, source)
            summary.points = len(table)
            write_predictions(beside[0], table)
            for layer in beside[1:]:
                write_points(layer, table, profile)
        elif isinstance(task, ImageTask):
            answer = task.describe(scene.mean)
            summary.label = answer["class"]
            summary.score = max(answer["scores"].values(), default=None)
            beside[0].write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")
        facts = facts | {"creation": options.creation}
        write_report(report, files, facts, asdict(summary), scene.seconds)
        check_outputs(files, options.overwrite or is_publishing(out))  # hours later: somebody may have put one there
        scene.journal.commit((scene.journal.last or {}) | {"publishing": True})
    warn_without_place(source.path, profile)
    return summary


def _objects(task: ObjectTask, raster: Path, source: Source) -> LabelTable:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # as the image is
        opened = rasterio.open(raster)
    with opened as dataset:

        def read(window: Window) -> npt.NDArray[Any]:
            place = ((window.row, window.row_stop), (window.col, window.col_stop))
            pixels: npt.NDArray[Any] = dataset.read(window=place)
            return pixels

        return task.find(read, source.height, source.width, source.name)


def foresee(model: XT, metadata: ModelMetadata, path: Path, options: PredictOptions) -> Estimate:
    """Say what predicting an image will take; nothing is written.

    Raises:
        InputError: If the image cannot be read or does not fit the model.
        ConfigError: If an option is wrong, or the memory given is too little.
    """
    task = task_of(metadata)
    source = open_source(path, metadata, options)
    plan, full = plan_of(model, metadata, source, options), options.context == "full"
    if full:
        check_full_context(model, plan, options.max_memory)
    trial = try_out(model, plan, full)
    budget = _budget(model, plan, options, trial)
    return estimate(model, source, task.product, plan, full, budget, trial)


def _budget(model: XT, plan: ScenePlan, options: PredictOptions, trial: Trial | None = None) -> int:
    if options.max_memory is None:
        return BUDGET
    trial = trial or try_out(model, plan, options.context == "full")
    return budget_within(options.max_memory, trial, shapes_of(model).nbytes, BUDGET)


def _bytes_needed(source: Source, task: Task) -> int:
    """On the disk, at most: parts, and the raster made of them."""
    product = task.product
    size = np.dtype(product.dtype).itemsize * len(product.names)
    return int(2 * source.height * source.width * size)
