"""Runs a model over a whole image: overlapping tiles, blended, in memory for one row of tiles."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import torch
from torch import Tensor

from xt.data.labels import LabelTable, write_predictions
from xt.data.source import Source
from xt.errors import InputError
from xt.files import locked, replacing_all
from xt.geometry.blend import Blend, axis_weights, tile_starts
from xt.geometry.grid import Window
from xt.inference.creation import check_creation
from xt.inference.outputs import check_outputs, output_files, refuse_inputs
from xt.inference.points import write_geopackage
from xt.inference.writer import BandWriter
from xt.metrics.points import Thresholds, find_in_strips, scaled
from xt.models.metadata import ModelMetadata
from xt.models.xt import XT

HEADS = ("center", "vessel", "fishing", "length")
Rows = npt.NDArray[np.float32]


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

    A point-detection model gives maps (bands center, vessel, fishing in 0..255 and length in metres; nodata NaN), and
    ``.csv`` and ``.gpkg`` beside them. A segmentation or classification model gives classes (uint8, nodata 255); for
    classification every tile is classified, and ``.json`` holds the mean over tiles. All appear when all are complete.

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
    """
    source = Source(path, metadata.inputs, options.bands, options.nodata, options.complex_abs)
    detect = metadata.task == "point-detection"
    names = HEADS if detect else ("class",)
    count, dtype, nodata = result_type(metadata)
    settings = check_creation(options.creation, dtype, count)
    refuse_inputs([out], [path])
    files = output_files(out, metadata.task)
    summary, mean = Summary(str(path), str(out)), _Mean()
    with ExitStack() as stack:
        for each in reversed(files):
            stack.enter_context(locked(each))
        check_outputs(files, options.overwrite, source.height * source.width * count * np.dtype(dtype).itemsize)
        partials = stack.enter_context(replacing_all(files))
        profile = source.profile()
        with BandWriter(out, partials[-1], profile, count, dtype, nodata, names, settings) as writer:
            for values, valid in _blended(model, metadata, source, options, summary, mean, progress):
                writer.write(_finish(values, valid, dtype, nodata))
        source.check_unchanged()
        if summary.bad_tiles == summary.tiles:
            raise InputError(f"{path}: none of its {summary.tiles} tiles can be read; fetch the file again")
        if detect:
            table = _points(partials[-1], source, metadata)
            summary.points = len(table)
            write_predictions(partials[0], table)
            write_geopackage(partials[1], table, profile)
        elif metadata.task == "classification":
            _write_class(partials[0], mean, metadata, summary)
        check_outputs(files, options.overwrite)  # hours later: somebody may have put a file there
    return summary


def result_type(metadata: ModelMetadata) -> tuple[int, str, float]:
    """Return bands, sample type and nodata of the GeoTIFF that a model gives; nodata is no number of a class."""
    if metadata.task == "point-detection":
        return len(HEADS), "float32", float("nan")
    dtype = np.dtype("uint8" if len(metadata.classes) <= np.iinfo(np.uint8).max else "uint16")
    return 1, dtype.name, float(np.iinfo(dtype).max)


class _Mean:
    """Mean of the class probabilities over tiles."""

    def __init__(self) -> None:
        self.total: npt.NDArray[np.float64] = np.zeros(0)
        self.count = 0

    def add(self, values: npt.NDArray[np.float32]) -> None:
        self.total = values.astype(np.float64) if not self.count else self.total + values
        self.count += 1


def _blended(
    model: XT,
    metadata: ModelMetadata,
    source: Source,
    options: PredictOptions,
    summary: Summary,
    mean: _Mean,
    progress: Callable[[int, int], None],
) -> Iterator[tuple[Rows, npt.NDArray[np.bool_]]]:
    """Yield rows that are final, from top to bottom, with what is valid in them."""
    tile = options.tile or metadata.image_size
    overlap = tile // 8 if options.overlap is None else options.overlap
    rows, cols = tile_starts(source.height, tile, overlap), tile_starts(source.width, tile, overlap)
    row_weights = axis_weights(rows, tile, source.height, options.blend)
    col_weights = axis_weights(cols, tile, source.width, options.blend)
    high, wide = min(tile, source.height), min(tile, source.width)
    count = len(HEADS) if metadata.task == "point-detection" else len(metadata.classes)
    sums = np.zeros((count, high, source.width), np.float32)
    valid = np.zeros((high, source.width), bool)
    shares = np.zeros((high, source.width), np.float32)
    lost = np.zeros((high, source.width), bool)
    for i, row in enumerate(rows):
        for j, col in enumerate(cols):
            values, known = _tile(model, metadata, source, Window(row, col, high, wide), options, summary, mean)
            weights = row_weights[i][:, None] * col_weights[j][None, :]
            if values is not None:
                sums[:, :, col : col + wide] += values * weights
                shares[:, col : col + wide] += weights
            elif known is None:
                lost[:, col : col + wide] = True
                known = np.zeros((high, wide), bool)
            valid[:, col : col + wide] |= known
            summary.tiles += 1
            progress(summary.tiles, len(rows) * len(cols))
        final = high if i + 1 == len(rows) else rows[i + 1] - row
        yield _whole(sums[:, :final], shares[:final], lost[:final]), valid[:final].copy()
        kept = high - final
        for each in (sums, valid, shares, lost):
            each[..., :kept, :] = each[..., final:, :].copy()
            each[..., kept:, :] = 0


def _whole(sums: Rows, shares: Rows, lost: npt.NDArray[np.bool_]) -> Rows:
    """Sums of weighted tiles; where a tile is lost, the weights of the others are brought to 1."""
    partly = lost & (shares > 0)
    result = sums.copy()
    result[:, partly] /= shares[partly]
    return result


def _tile(
    model: XT,
    metadata: ModelMetadata,
    source: Source,
    window: Window,
    options: PredictOptions,
    summary: Summary,
    mean: _Mean,
) -> tuple[Rows | None, npt.NDArray[np.bool_] | None]:
    """Values and validity of a tile; no values where nothing is valid, neither where it cannot be read."""
    try:
        pixels, valid = source.read(window)
    except InputError:
        if not options.fill_bad_tiles:
            raise
        summary.bad_tiles += 1
        return None, None
    if not valid.any():
        summary.empty_tiles += 1
        return None, valid
    device = next(model.parameters()).device
    image = torch.from_numpy(pixels)[None].to(device)
    raw = run_model(model, image, torch.from_numpy(valid)[None, None].to(device))
    if metadata.task == "point-detection":
        maps = scaled({name: raw[name][0, 0].float().cpu().numpy() for name in HEADS}, metadata.center_activation)
        values = np.stack([maps[name] for name in HEADS])
    elif metadata.task == "semantic-segmentation":
        values = raw["mask"][0].float().softmax(0).cpu().numpy()
    else:
        scores = raw["label"][0].float().softmax(0).cpu().numpy()
        mean.add(scores)
        values = np.broadcast_to(scores[:, None, None], (len(scores), window.height, window.width))
    if not np.isfinite(values[:, valid]).all():
        raise InputError(
            f"{source.path}: the model gives NaN or infinity at rows {window.row}–{window.row_stop - 1}, columns "
            f"{window.col}–{window.col_stop - 1}; check the values there, --nodata, and the model"
        )
    return values, valid


def run_model(model: XT, image: Tensor, valid: Tensor) -> dict[str, Tensor]:
    """Run the model without gradients; when the GPU's memory is full, halve the region batch and go on."""
    while True:
        try:
            with torch.inference_mode():
                return model(image, valid)  # type: ignore[no-any-return]
        except torch.cuda.OutOfMemoryError:
            if model.region_batch == 1:
                raise
            model.region_batch //= 2
            torch.cuda.empty_cache()


def _finish(values: Rows, valid: npt.NDArray[np.bool_], dtype: str, nodata: float) -> npt.NDArray[Any]:
    result = values if dtype == "float32" else values.argmax(0)[None]
    return np.where(valid, result, np.asarray(nodata).astype(dtype)).astype(dtype)


def _points(maps: Path, source: Source, metadata: ModelMetadata) -> LabelTable:
    with rasterio.open(maps) as dataset:

        def read(top: int, stop: int) -> dict[str, Rows]:
            strip = np.nan_to_num(dataset.read(window=((top, stop), (0, source.width))))
            return dict(zip(HEADS, strip, strict=True))

        found = find_in_strips(read, source.height, source.name)
    return found.decide(Thresholds.from_dict(metadata.thresholds))


def _write_class(path: Path, mean: _Mean, metadata: ModelMetadata, summary: Summary) -> None:
    """Write the class and its scores; where no tile has data, the class is null."""
    values = mean.total / max(mean.count, 1)
    if mean.count:
        summary.label, summary.score = metadata.classes[int(values.argmax())], float(values.max())
    scores = dict(zip(metadata.classes, values.tolist(), strict=False))
    path.write_text(json.dumps({"class": summary.label, "scores": scores}, indent=2) + "\n", encoding="utf-8")
