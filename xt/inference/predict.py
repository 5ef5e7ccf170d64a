"""Runs a model over a whole image and writes what its task publishes."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio

from xt.data.labels import LabelTable, write_predictions
from xt.data.source import Source
from xt.errors import InputError
from xt.files import locked, replacing_all
from xt.geometry.blend import Blend
from xt.geometry.grid import Window
from xt.inference.creation import check_creation
from xt.inference.outputs import check_outputs, output_files, refuse_inputs
from xt.inference.points import write_geopackage
from xt.inference.tiles import TiledImage
from xt.inference.writer import BandWriter
from xt.models.metadata import ModelMetadata
from xt.models.xt import XT
from xt.tasks.base import ImageTask, ObjectTask
from xt.tasks.registry import task_of


@dataclass(frozen=True)
class PredictOptions:
    """How an image is predicted.

    Attributes:
        tile: Side of a tile in pixels; the model's training size by default.
        overlap: Pixels that neighbouring tiles share; an eighth of a tile by default.
        blend: How they fade into each other.
        bands: 1-based bands; all by default.
        nodata: Value that is no data.
        complex_abs: Take complex samples by their absolute value.
        fill_bad_tiles: Give tiles that cannot be read nodata instead of failing.
        overwrite: Replace outputs.
        creation: Creation options of GDAL (:mod:`xt.inference.creation`).
    """

    tile: int | None = None
    overlap: int | None = None
    blend: Blend = "cosine"
    bands: tuple[int, ...] | None = None
    nodata: float | None = None
    complex_abs: bool = False
    fill_bad_tiles: bool = False
    overwrite: bool = False
    creation: dict[str, str] = field(default_factory=dict)


@dataclass
class Summary:
    """What happened to an image."""

    image: str
    output: str
    tiles: int = 0
    empty_tiles: int = 0
    bad_tiles: int = 0
    points: int | None = None
    label: str | None = None
    score: float | None = None


def predict_image(
    model: XT,
    metadata: ModelMetadata,
    path: Path,
    out: Path,
    options: PredictOptions,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Predict one image.

    Writes the raster of the model's task (:attr:`~xt.tasks.base.Task.product`) and, beside it, the objects of a task
    that finds some as ``.csv`` and ``.gpkg``, or the answer for the whole image, a mean over tiles, as ``.json``. All
    appear when all are complete.

    Args:
        model: On its device, in evaluation mode.
        metadata: Of the model.
        path: GeoTIFF or scene folder.
        out: GeoTIFF to write.
        options: How.
        progress: Called with tiles done and tiles in all.

    Raises:
        InputError: If the image cannot be read or does not fit the model.
        OutputError: If an output exists, cannot be written, is an input, or is held by another run.
        ConfigError: If a creation option is wrong.
        CheckpointError: If the model's task is not known.
    """
    task = task_of(metadata).eval()
    product = task.product
    source = Source(path, metadata.inputs, options.bands, options.nodata, options.complex_abs)
    settings = check_creation(options.creation, product.dtype, len(product.names))
    files = output_files(out, task)
    refuse_inputs(files, [path])
    tile = options.tile or metadata.image_size
    overlap = tile // 8 if options.overlap is None else options.overlap
    tiled = TiledImage(model, task, source, tile, overlap, options.blend, options.fill_bad_tiles, progress)
    summary = Summary(str(path), str(out))
    with ExitStack() as stack:
        for each in reversed(files):
            stack.enter_context(locked(each))
        needed = source.height * source.width * len(product.names) * np.dtype(product.dtype).itemsize
        check_outputs(files, options.overwrite, needed)
        partials = stack.enter_context(replacing_all(files))
        profile = source.profile()
        with BandWriter(out, partials[-1], profile, product, settings) as writer:
            for values, valid in tiled.rows():
                writer.write(task.paint(values, valid))
        source.check_unchanged()
        if tiled.bad_tiles == tiled.tiles:
            raise InputError(f"{path}: none of its {tiled.tiles} tiles can be read; fetch the file again")
        summary.tiles, summary.empty_tiles, summary.bad_tiles = tiled.tiles, tiled.empty_tiles, tiled.bad_tiles
        if isinstance(task, ObjectTask):
            table = _objects(task, partials[-1], source)
            summary.points = len(table)
            write_predictions(partials[0], table)
            write_geopackage(partials[1], table, profile)
        elif isinstance(task, ImageTask):
            answer = task.describe(tiled.mean)
            summary.label = answer["class"]
            summary.score = max(answer["scores"].values(), default=None)
            partials[0].write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")
        check_outputs(files, options.overwrite)  # hours later: somebody may have put a file there
    return summary


def _objects(task: ObjectTask, raster: Path, source: Source) -> LabelTable:
    with rasterio.open(raster) as dataset:

        def read(window: Window) -> npt.NDArray[Any]:
            place = (window.row, window.row_stop), (window.col, window.col_stop)
            pixels: npt.NDArray[Any] = dataset.read(window=place)
            return pixels

        return task.find(read, source.height, source.width, source.name)
