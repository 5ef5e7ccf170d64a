"""The xView3 metric, equal to the official one, and an honest variant of it.

``official=True`` reproduces the official script to the digit, including that a scene without any prediction is
left out whole. The default counts the objects of such a scene as missed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from xt.data.labels import LabelTable
from xt.metrics.matching import PIXEL_M, Indices, assign

TOLERANCE = 20.0
"""Pixels; of 10 m, so 200 m."""
SHORE_KM = 2.0
SHORE_PREDICTED_KM = 2.2
MAX_LENGTH_M = 500.0
SCORES = {"vessel": "vessel_fscore", "fishing": "fishing_fscore", "length": "length_acc"}
"""What may be known of an object → score of it."""

Shoreline = Mapping[str, Sequence[npt.NDArray[np.float64]]]
"""Scene → contours ``(N, 2)`` of row, column."""


@dataclass(frozen=True)
class XView3Score:
    """Scores in 0..1 and the counts behind them."""

    aggregate: float
    loc_fscore: float
    loc_fscore_shore: float
    vessel_fscore: float
    fishing_fscore: float
    length_acc: float
    true_positives: int
    false_positives: int
    false_negatives: int

    def to_dict(self) -> dict[str, float]:
        """Return name → value."""
        return asdict(self)


def match(predictions: LabelTable, labels: LabelTable, tolerance: float = TOLERANCE) -> tuple[Indices, Indices]:
    """Match the predictions and labels of one scene (Hungarian assignment, strictly within the tolerance in pixels).

    Returns:
        Indices of the matched predictions and, in the same order, of their labels.
    """
    if not len(predictions) or not len(labels):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    found, real = (np.stack([table.row, table.column], axis=1) for table in (predictions, labels))
    return assign(found, real, tolerance)


def score(
    predictions: LabelTable,
    labels: LabelTable,
    shoreline: Shoreline | None = None,
    official: bool = False,
    tolerance: float = TOLERANCE,
) -> XView3Score:
    """Score predictions.

    Args:
        predictions: Objects found.
        labels: Truth, all confidences.
        shoreline: Contours by scene; without it ``loc_fscore_shore`` is 0.
        official: Leave out scenes without predictions, as the official script does.
        tolerance: Pixels within which an object is found; that of xView3 by default.
    """
    scenes = sorted(set(predictions.scenes) | (set() if official else set(labels.scenes)))
    counts, shore_counts = np.zeros(3, np.int64), np.zeros(3, np.int64)
    found, truth = [], []
    for scene in scenes:
        guessed, real = without_low(predictions.scene(scene), labels.scene(scene), tolerance)
        rows, cols = match(guessed, real, tolerance)
        counts += [len(rows), len(guessed) - len(rows), len(real) - len(rows)]
        found.append(guessed.select(rows))
        truth.append(real.select(cols))
        if shoreline is not None:
            shore_counts += _shore_counts(guessed, real, shoreline.get(scene, []), tolerance)
    matched, real = LabelTable.concatenate(found), LabelTable.concatenate(truth)
    known_vessel = ~np.isnan(real.is_vessel)
    known_fishing = (real.is_vessel == 1) & ~np.isnan(real.is_fishing)
    location, shore = f1(*counts), f1(*shore_counts)
    vessel = _agreement(matched.is_vessel[known_vessel], real.is_vessel[known_vessel])
    fishing = _agreement(matched.is_fishing[known_fishing], real.is_fishing[known_fishing])
    length = _length_accuracy(matched.vessel_length_m, real.vessel_length_m)
    return XView3Score(
        location * (1 + length + vessel + fishing + shore) / 5,
        location,
        shore,
        vessel,
        fishing,
        length,
        *(int(count) for count in counts),
    )


def without_low(predictions: LabelTable, labels: LabelTable, tolerance: float) -> tuple[LabelTable, LabelTable]:
    """Leave out labels that nobody is sure of, and what was found of them."""
    rows, cols = match(predictions, labels, tolerance)
    keep = np.ones(len(predictions), dtype=bool)
    keep[rows[labels.confidence[cols] == "LOW"]] = False
    return predictions.select(keep), labels.select(np.isin(labels.confidence, ("HIGH", "MEDIUM")))


def _shore_counts(
    predictions: LabelTable, labels: LabelTable, contours: Sequence[npt.NDArray[np.float64]], tolerance: float
) -> npt.NDArray[np.int64]:
    near = predictions.select(_near_shore(predictions, contours))
    real = labels.select(labels.distance_from_shore_km <= SHORE_KM)
    if not len(near) or not len(real):
        return np.zeros(3, np.int64)
    rows, _ = match(near, real, tolerance)
    return np.array([len(rows), len(near) - len(rows), len(real) - len(rows)], np.int64)


def _near_shore(table: LabelTable, contours: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.bool_]:
    points = [contour.reshape(-1, 2) for contour in contours if len(contour)]
    if not points or not len(table):
        return np.zeros(len(table), dtype=bool)
    shore = cKDTree(np.concatenate(points))
    places = np.stack([table.row, table.column], axis=1)
    radius = SHORE_PREDICTED_KM * 1000 / PIXEL_M
    # The official script keeps distances in a sparse matrix, where a distance of exactly 0 is no entry.
    within = shore.query_ball_point(places, radius, return_length=True)
    on_point = shore.query_ball_point(places, 0.0, return_length=True)
    return np.asarray(within) > np.asarray(on_point)


def f1(true_positives: int, false_positives: int, false_negatives: int) -> float:
    """Harmonic mean of precision and recall; 0 without a hit."""
    total = 2 * true_positives + false_positives + false_negatives
    return float(2 * true_positives / total) if true_positives else 0.0


def _agreement(guessed: npt.NDArray[np.float64], real: npt.NDArray[np.float64]) -> float:
    positive, true = guessed == 1, real == 1
    return f1(int((positive & true).sum()), int((positive & ~true).sum()), int((~positive & true).sum()))


def _length_accuracy(guessed: npt.NDArray[np.float64], real: npt.NDArray[np.float64]) -> float:
    known = ~np.isnan(real) & (real > 0)
    if not known.any():
        return 0.0
    p = np.minimum(np.nan_to_num(guessed[known], nan=0.0), MAX_LENGTH_M)
    g = np.minimum(real[known], MAX_LENGTH_M)
    return float(1 - min(np.mean(np.abs(p - g) / g), 1.0))
