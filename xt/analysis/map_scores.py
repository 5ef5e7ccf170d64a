"""A predicted map beside a raster of what is true, read window by window."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xt.analysis.map_truth import Areas, ClassTruth, Grid, TruthOptions, is_layer
from xt.data.georeference import profile_of
from xt.data.geotiff import PLAIN, open_raster, read_values
from xt.data.masks import windows
from xt.errors import InputError
from xt.geometry.grid import Window
from xt.metrics.maps import class_scores

FEW_PAIRS = 1 << 20
"""Pairs of classes that are counted without sorting pixels."""


@dataclass(frozen=True)
class MapScores:
    """How well a map says what is true.

    Attributes:
        scores: Of classes ``iou``, ``f1`` and those of each; of numbers ``r2``, ``rmse``, ``mae``, ``bias``, of each
            band where there are several.
        pixels: That count: the map says something of them, and the truth is known. Of several bands those of the first.
        unsaid: Pixels of which the truth is known and the map says nothing; they do not count.
    """

    scores: dict[str, float]
    pixels: int
    unsaid: int


def score_map(path: Path, truth: Path, options: TruthOptions | None = None) -> MapScores:
    """Score a map of classes or numbers, as ``xt predict`` writes it.

    Args:
        path: The map: one band of whole numbers for classes, float bands for numbers.
        truth: Raster on the same grid: one band of class indexes, or as many bands of numbers; or polygons of classes,
            outside which the first class is true, as :class:`~xt.data.polygon_masks.PolygonsData` has it.
        options: How ``truth`` is to be read, and where.

    Raises:
        ConfigError: If an option does not go with the map or ``truth``.
        InputError: If a raster cannot be read, both are not on one grid, a value is no class, or no pixel is known.
    """
    options = options or TruthOptions()
    with open_raster(path, PLAIN, purpose="label") as found:
        classes = np.issubdtype(np.dtype(found.dtypes[0]), np.integer)
        options.check(path, truth, numbers=not classes)
        if classes and found.count > 1:
            raise InputError(f"{path}: {found.count} bands; class indexes are one band")
        if is_layer(truth):
            if not classes:
                raise InputError(f"{truth}: polygons, {path} has numbers; give a raster of numbers on its grid")
            scores = _of_classes(path, found, truth, options)
        else:
            scores = _of_raster(path, found, truth, options, classes)
    if not scores.pixels:
        raise InputError(f"{truth}: nothing is known of the pixels that {path} has data for; give another raster")
    return scores


def _of_raster(path: Path, found: Any, truth: Path, options: TruthOptions, classes: bool) -> MapScores:
    with open_raster(truth, PLAIN, purpose="label") as known:
        _check_grids(path, found, truth, known)
        if found.count != (1 if options.colors else known.count):
            wanted = "class indexes are one band" if classes else "they must be alike"
            raise InputError(f"{truth}: {known.count} bands, {path} has {found.count}; {wanted}")
        if classes:
            return _of_classes(path, found, truth, options)
        return _of_numbers(found, known, Areas(Grid(path, profile_of(found)), options.areas))


def _check_grids(path: Path, found: Any, truth: Path, known: Any) -> None:
    if (found.height, found.width) != (known.height, known.width):
        raise InputError(
            f"{truth}: {known.height} × {known.width} px, {path} has {found.height} × {found.width}; they must be on "
            "one grid"
        )
    if not (found.crs and known.crs):
        return
    corners = [(0, 0), (found.width, 0), (0, found.height)]
    apart = max(np.hypot(*np.subtract(~found.transform * (known.transform * each), each)) for each in corners)
    if found.crs != known.crs or apart > 0.5:
        why = "another CRS" if found.crs != known.crs else f"up to {apart:.3g} pixels away"
        raise InputError(f"{truth}: {why} than {path}; warp it to that grid")


def _of_classes(path: Path, found: Any, truth: Path, options: TruthOptions) -> MapScores:
    reader = ClassTruth(path, found, truth, options)
    counts: Counter[tuple[int, int]] = Counter()
    unsaid = 0
    for window in windows(found.height, found.width):
        values, valid = read_values(found, window, 1)
        true, known = reader.read(window)
        unsaid += int((known & ~valid).sum())
        counts.update(_pairs(values[known & valid], true[known & valid]))
    names = reader.names or {number: str(number) for number in sorted({each for pair in counts for each in pair} | {0})}
    return MapScores(class_scores(counts, names), sum(counts.values()), unsaid)


def _pairs(found: npt.NDArray[Any], true: npt.NDArray[np.int64]) -> dict[tuple[int, int], int]:
    many = int(true.max(initial=0)) + 1
    keys = found.astype(np.int64) * many + true
    if not keys.size or 0 <= keys.min() <= keys.max() < FEW_PAIRS:
        numbers = np.bincount(keys)
        kinds = np.flatnonzero(numbers)
        numbers = numbers[kinds]
    else:
        kinds, numbers = np.unique(keys, return_counts=True)
    return {divmod(kind, many): number for kind, number in zip(kinds.tolist(), numbers.tolist(), strict=True)}


def _of_numbers(found: Any, known: Any, areas: Areas) -> MapScores:
    import torch

    from xt.metrics.regression import Errors  # seconds of imports, which classes are spared

    bands = tuple(range(1, found.count + 1))
    names = [name or str(band) for band, name in zip(bands, found.descriptions, strict=True)]
    errors = Errors(found.count)
    middle = np.full(len(bands), np.nan)
    pixels = unsaid = 0
    for window in windows(found.height, found.width):
        said, true = (_numbers(each, window, bands) for each in (found, known))
        true[:, ~np.broadcast_to(areas.inside(window), true.shape[1:])] = np.nan
        pixels += int((np.isfinite(true[0]) & np.isfinite(said[0])).sum())
        unsaid += int((np.isfinite(true[0]) & ~np.isfinite(said[0])).sum())
        true[~np.isfinite(said)] = np.nan
        for band in np.flatnonzero(np.isnan(middle) & np.isfinite(true).any((1, 2))):
            middle[band] = np.nanmean(true[band])  # squares of large numbers would hide how they differ
        shift = np.nan_to_num(middle)[:, None, None]
        errors.update(*(torch.from_numpy(each - shift)[None] for each in (np.nan_to_num(said), true)))
    scores: dict[str, float] = {}
    for metric, values in errors.compute().items():
        told = dict(zip(names, values.view(-1).tolist(), strict=True))
        scores |= {metric: values.item()} if len(names) == 1 else {f"{metric}_{k}": v for k, v in told.items()}
    return MapScores(scores, pixels, unsaid)


def _numbers(dataset: Any, window: Window, bands: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Numbers ``(T, h, w)``, NaN where there are none."""
    read = (read_values(dataset, window, band) for band in bands)
    return np.stack([np.where(valid, values.astype(np.float64), np.nan) for values, valid in read])
