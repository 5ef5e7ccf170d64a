"""Runs a model over a whole image and writes what its task publishes."""

import math
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch

from xt.data.address import shown
from xt.data.georeference import check_places
from xt.data.limits import LimitedSource
from xt.data.photos import RESIZED, Photo
from xt.data.polygons import touching
from xt.data.source import Source
from xt.errors import ConfigError, GeometryError, XTWarning
from xt.files import locked
from xt.geometry.grid import RegionGrid
from xt.geometry.plan import ScenePlan
from xt.inference.creation import check_cog
from xt.inference.engine import Scene
from xt.inference.estimate import Estimate, Trial, budget_within, estimate, try_out
from xt.inference.first_pass import FirstPass, check_full_context
from xt.inference.fit import warn_of_bands
from xt.inference.journal import Journal, difference, is_publishing, job, job_folder, remove_job
from xt.inference.options import PredictOptions, Summary
from xt.inference.outcome import Outcome
from xt.inference.outputs import check_outputs, made_otherwise, output_files, read_report, refuse_inputs
from xt.inference.parts import PartWriter
from xt.inference.precision import computing
from xt.inference.publish import publish
from xt.inference.report import facts_of
from xt.inference.stopwatch import Stopwatch
from xt.inference.views import TURNS, Views
from xt.inference.whole import of_file, open_whole, spread, windowed
from xt.malloc import return_free_memory
from xt.models.decoders.base import DenseDecoder
from xt.models.metadata import ModelMetadata
from xt.models.work import device_of
from xt.models.xt import XT
from xt.stopping import StopRequest
from xt.tasks.base import ObjectTask, Task
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
    task = task_of(metadata, model).eval()
    source = open_source(path, metadata, options)
    check_cog(options.creation, task.product)
    plan = plan_of(model, metadata, source, options)
    if options.context == "full":
        check_full_context(model, plan, options.max_memory)
    if isinstance(task, ObjectTask):
        check_places(path, source.profile())
    files = output_files(out, task)
    refuse_inputs(files, [path, *options.limits])
    with ExitStack() as stack:
        for each in reversed(files):
            stack.enter_context(locked(each))
        facts = facts_of(model, metadata, source, plan, options)
        made = made_otherwise(out, path, facts | {"creation": options.creation})
        check_outputs(files, options.overwrite or is_publishing(out), bytes_needed(source, task), made)
        with job(job_folder(out), facts, options.restart) as journal:
            outcome = work_on(model, task, source, plan, journal, options, progress, stop)
            if isinstance(source, Photo):
                outcome.parts = spread(task, outcome, source.profile(), journal.subfolder("spread"))
            return publish(task, source, outcome, files, options, facts, journal)


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
    if difference(report, facts) is not None:
        return None
    with ExitStack() as stack:  # a kill may have come between the last name and the end of the job
        for each in reversed(output_files(out, task_of(metadata))):
            stack.enter_context(locked(each))
        remove_job(job_folder(out))
    return Summary(**report["result"])


def open_source(path: Path, metadata: ModelMetadata, options: PredictOptions) -> Source:
    """Open an image as it is to be predicted, and warn of what tells that it is not the one that is meant.

    Raises:
        InputError: If it cannot be read or does not fit the model, or a limit does not fit it.
        ConfigError: If an option asks for windows of what the model sees as a whole.
    """
    if metadata.resize_type == RESIZED and options.tile is None:
        if given := windowed(options):
            raise ConfigError(
                f"{given} is for windows, and the model sees images as a whole, as in training; for windows of the "
                f"image as it is give --tile, such as --tile {metadata.image_size}"
            )
        return open_whole(path, metadata)
    source = Source(path, metadata.inputs, options.bands, options.nodata, options.complex_abs)
    warn_of_bands(source)
    if options.aoi is None and options.mask is None and options.crop is None:
        return source
    limited = LimitedSource(source, options.aoi, options.mask, options.crop)
    if options.aoi is not None and not len(touching(limited.tree, limited.crop)):
        part = "" if options.crop is None else " inside the window"
        advice = "all of its result is nodata; if it should not be, check the CRS of both"
        warnings.warn(f"{options.aoi}: no polygon touches {shown(path)}{part}; {advice}", XTWarning, stacklevel=2)
    return limited


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
    return ScenePlan(grid, side, min(shared, side - 1), halo, model.region_batch, options.share)


def work_on(
    model: XT,
    task: Task,
    source: Source,
    plan: ScenePlan,
    journal: Journal,
    options: PredictOptions,
    progress: Callable[[int, int], None],
    stop: StopRequest | None,
) -> Outcome:
    """Decode the pixels of a plan, or of its share, and have them written into the job's folder.

    Raises:
        InputError: If the image cannot be read, or has changed meanwhile.
        OutputError: If anything cannot be written.
        ConfigError: If the memory given is too little.
    """
    views, mixed, seconds = Views(model, TURNS[options.tta]), [], Stopwatch()
    with ExitStack() as stack:
        stack.enter_context(computing(options.precision, model))
        for number, turn in enumerate(views.turns if options.context == "full" else ()):
            given = (model, source, plan, journal, options.fill_bad_tiles, progress, stop, number, turn, seconds)
            mixed.append(stack.enter_context(FirstPass(*given).run()))
            return_free_memory()
        writer = stack.enter_context(PartWriter(journal.subfolder("parts"), task.product))
        scene = Scene(
            views,
            task,
            source,
            plan,
            options.blend,
            journal,
            writer,
            _budget(model, plan, options),
            options.fill_bad_tiles,
            progress,
            stop,
            mixed,
            seconds=seconds,
        )
        scene.run()
    source.check_unchanged()
    return scene.outcome


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
    trial = try_out(model, plan, full, options.precision)
    budget = _budget(model, plan, options, trial)
    foreseen = estimate(Views(model, TURNS[options.tta]), source, task.product, plan, full, budget, trial)
    return of_file(foreseen, source, task) if isinstance(source, Photo) else foreseen


def _budget(model: XT, plan: ScenePlan, options: PredictOptions, trial: Trial | None = None) -> int:
    device, most, size = device_of(model), BUDGET, Views(model, TURNS[options.tta]).shapes.nbytes
    on_gpu = device.type == "cuda"
    if on_gpu:  # where the regions are; the process holds none of them
        most, size = max(BUDGET, torch.cuda.mem_get_info(device)[0] // 4), 0
    if options.max_memory is None:
        return most
    trial = trial or try_out(model, plan, options.context == "full", options.precision)
    left = budget_within(options.max_memory, trial, size, most)
    return most if on_gpu else left


def bytes_needed(source: Source, task: Task) -> int:
    """Bytes on the disk, at most: parts, and the raster made of them."""
    profile = source.profile()
    return int(2 * profile["height"] * profile["width"] * task.product.pixel_bytes)
