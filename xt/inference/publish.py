"""Joins the parts of a scene to its result, finds the objects in it, and gives all files their names."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy.typing as npt
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from xt.data.address import shown
from xt.data.georeference import warn_without_place
from xt.data.labels import LabelTable
from xt.data.photos import Photo
from xt.data.predictions import write_predictions
from xt.data.source import Source
from xt.errors import InputError
from xt.files import replacing_all
from xt.geometry.grid import Window
from xt.inference.cog import assemble, threads
from xt.inference.creation import check_cog
from xt.inference.journal import Journal, is_publishing
from xt.inference.options import PredictOptions, Summary
from xt.inference.outcome import Outcome
from xt.inference.outputs import check_outputs
from xt.inference.points import in_scene, write_points
from xt.inference.report import tags_of, write_report
from xt.tasks.base import ImageTask, ObjectTask, Task


def publish(
    task: Task,
    source: Source,
    outcome: Outcome,
    files: Sequence[Path],
    options: PredictOptions,
    facts: dict[str, Any],
    journal: Journal,
) -> Summary:
    """Write the files of a result; all appear when all are complete.

    Args:
        task: Of the model.
        source: The image.
        outcome: Of the work on all of it.
        files: Of :func:`~xt.inference.outputs.output_files`; their locks are held.
        options: How the image was predicted.
        facts: Of :func:`~xt.inference.report.facts_of`.
        journal: Of the job; it notes that names are being given, so that a run after a kill knows them as its own.

    Raises:
        InputError: If no region could be read.
        OutputError: If a file has come up meanwhile or cannot be written.
    """
    counts, out, profile = outcome.counts, files[-1], source.profile()
    if counts.bad == counts.own:
        raise InputError(f"{source.path}: none of its {counts.own} regions can be read; fetch the file again")
    summary = Summary(shown(source.path), str(out), counts.own, counts.empty, counts.bad)
    settings = check_cog(options.creation, task.product)
    with replacing_all(files) as partials:
        *beside, report, raster = partials
        with outcome.seconds.timed("assemble"):
            assemble(outcome.parts, raster, profile, task.product, settings, tags_of(facts), out)
        if isinstance(task, ObjectTask):
            with outcome.seconds.timed("objects"):
                table = _objects(task, raster, source)
            summary.points = len(table)
            write_predictions(beside[0], in_scene(table, source.origin), bool(task.classes))
            for layer in beside[1:]:
                write_points(layer, table, profile, bool(task.classes), source.origin)
        elif isinstance(task, ImageTask):
            answer = task.describe(outcome.mean)
            summary.label = answer["class"]
            summary.score = max(answer["scores"].values(), default=None)
            beside[0].write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")
        facts = facts | {"creation": options.creation}
        write_report(report, files, facts, asdict(summary), outcome.seconds)
        check_outputs(files, options.overwrite or is_publishing(out))  # hours later: somebody may have put one there
        journal.commit((journal.last or {}) | {"publishing": True})
    if not isinstance(source, Photo):  # of which nobody expects one
        warn_without_place(Path(shown(source.path)), profile)
    return summary


def _objects(task: ObjectTask, raster: Path, source: Source) -> LabelTable:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # as the image is
        opened = rasterio.open(raster, num_threads=threads())
    with opened as dataset:

        def read(window: Window) -> npt.NDArray[Any]:
            place = ((window.row, window.row_stop), (window.col, window.col_stop))
            pixels: npt.NDArray[Any] = dataset.read(window=place)
            return pixels

        return task.find(read, source.height, source.width, source.name)
