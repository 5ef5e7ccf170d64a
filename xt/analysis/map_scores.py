"""Predicted maps beside what is true, read window by window."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.enums import ColorInterp

from xt.analysis.map_truth import Areas, ClassTruth, Grid, TruthOptions, is_layer
from xt.data.georeference import check_same_grid, profile_of
from xt.data.geotiff import class_names, in_unit, open_raster, read_values
from xt.data.masks import windows
from xt.errors import InputError, XTWarning
from xt.geometry.grid import Window
from xt.metrics.maps import class_scores

TASK = "XT_TASK"
"""Tag of what ``xt predict`` writes."""
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
    """Score a map as :func:`score_maps` does several."""
    return score_maps([(path, truth)], options)


def score_maps(pairs: Sequence[tuple[Path, Path]], options: TruthOptions | None = None) -> MapScores:
    """Score maps of classes or numbers, as ``xt predict`` writes them, over the pixels of all.

    Args:
        pairs: Each map, which is one band of whole numbers for classes or float bands for numbers, and what is true of
            it: a raster on its grid, one band of class indexes or as many bands of numbers; or polygons of classes,
            outside which the first class is true, as :class:`~xt.data.polygon_masks.PolygonsData` has it.
        options: How what is true is to be read, and where.

    Raises:
        ConfigError: If an option does not go with the maps or what is true of them.
        InputError: If a raster cannot be read, both are not on one grid, maps are not alike, a value is no class, or no
            pixel is known.
    """
    options = options or TruthOptions()
    sums: _ClassSums | _NumberSums | None = None
    for path, truth in pairs:
        with open_raster(path, purpose="label") as found:
            classes = np.issubdtype(np.dtype(found.dtypes[0]), np.integer)
            options.check(path, truth, numbers=not classes)
            if classes and found.count > 1:
                raise InputError(f"{path}: {found.count} bands; class indexes are one band")
            if not classes and is_layer(truth):
                raise InputError(f"{truth}: polygons, {path} has numbers; give a raster of numbers on its grid")
            kind = _ClassSums if classes else _NumberSums
            sums = sums or kind(found)
            if sums.names != kind.names_of(found):
                raise InputError(f"{path}: other classes or bands than {pairs[0][0]}; score it by itself")
            if not is_layer(truth):
                _check_raster(path, found, truth, options, classes)
            sums.add(path, found, truth, options)
    if sums is None or not sums.pixels:
        path, truth = pairs[0] if len(pairs) == 1 else (each.parent for each in pairs[0])
        raise InputError(f"{truth}: nothing is known of the pixels that {path} has data for; give another one")
    return MapScores(sums.scores(options), sums.pixels, sums.unsaid)


def _check_raster(path: Path, found: Any, truth: Path, options: TruthOptions, classes: bool) -> None:
    with open_raster(truth, purpose="label") as known:
        check_same_grid(truth, profile_of(known), path, profile_of(found))
        shades = sum(each != ColorInterp.alpha for each in known.colorinterp) if classes else known.count
        if found.count != (1 if options.colors else shades):
            wanted = "give one band of class indexes, or --colors" if classes else "they must be alike"
            raise InputError(f"{truth}: {known.count} bands, {path} has {found.count}; {wanted}")
        if TASK in known.tags() and TASK not in found.tags():
            text = f"{truth} is what xt predict wrote and {path} is not: the map comes first, then what is true"
            warnings.warn(text, XTWarning, stacklevel=3)


class _ClassSums:
    """Pixels of each pair of a found and a true class.

    Args:
        found: The first map, opened.
    """

    def __init__(self, found: Any) -> None:
        self.names = self.names_of(found)
        self.counts: Counter[tuple[int, int]] = Counter()
        self.unsaid = 0

    @staticmethod
    def names_of(found: Any) -> dict[int, str]:
        return class_names(found)

    @property
    def pixels(self) -> int:
        return self.counts.total()

    def add(self, path: Path, found: Any, truth: Path, options: TruthOptions) -> None:
        reader = ClassTruth(path, found, truth, options)
        for window in windows(found.height, found.width):
            values, valid = read_values(found, window, 1)
            true, known = reader.read(window)
            self.unsaid += int((known & ~valid).sum())
            self.counts.update(_pairs(values[known & valid], true[known & valid]))

    def scores(self, options: TruthOptions) -> dict[str, float]:
        occurring = sorted({each for pair in self.counts for each in pair} | {0})
        names = self.names or {number: str(number) for number in occurring}
        return class_scores(self.counts, names, options.background)


class _NumberSums:
    """Errors of each band.

    Args:
        found: The first map, opened.
    """

    def __init__(self, found: Any) -> None:
        from xt.metrics.regression import Errors  # seconds of imports, which classes are spared

        self.names = self.names_of(found)
        self.errors = Errors(found.count)
        self.middle = np.full(found.count, np.nan)
        self.pixels = self.unsaid = 0

    @staticmethod
    def names_of(found: Any) -> list[str]:
        return [name or str(band) for band, name in enumerate(found.descriptions, start=1)]

    def add(self, path: Path, found: Any, truth: Path, options: TruthOptions) -> None:
        import torch

        areas = Areas(Grid(path, profile_of(found)), options.areas)
        with open_raster(truth, purpose="label") as known:
            for window in windows(found.height, found.width):
                said, true = (_numbers(each, window) for each in (found, known))
                true[:, ~np.broadcast_to(areas.inside(window), true.shape[1:])] = np.nan
                self.pixels += int((np.isfinite(true[0]) & np.isfinite(said[0])).sum())
                self.unsaid += int((np.isfinite(true[0]) & ~np.isfinite(said[0])).sum())
                true[~np.isfinite(said)] = np.nan
                for band in np.flatnonzero(np.isnan(self.middle) & np.isfinite(true).any((1, 2))):
                    self.middle[band] = np.nanmean(true[band])  # squares of large numbers would hide how they differ
                shift = np.nan_to_num(self.middle)[:, None, None]
                self.errors.update(*(torch.from_numpy(each - shift)[None] for each in (np.nan_to_num(said), true)))

    def scores(self, options: TruthOptions) -> dict[str, float]:
        scores: dict[str, float] = {}
        for metric, values in self.errors.compute().items():
            told = dict(zip(self.names, values.view(-1).tolist(), strict=True))
            scores |= {metric: values.item()} if len(told) == 1 else {f"{metric}_{k}": v for k, v in told.items()}
        return scores


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


def _numbers(dataset: Any, window: Window) -> npt.NDArray[np.float64]:
    """Numbers ``(T, h, w)`` in their unit, NaN where there are none."""
    read = ((band, *read_values(dataset, window, band)) for band in range(1, dataset.count + 1))
    return np.stack([np.where(valid, in_unit(dataset, band, values), np.nan) for band, values, valid in read])
