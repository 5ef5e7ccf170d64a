"""F1 of objects of classes."""

from collections.abc import Iterable

from xt.data.labels import LabelTable
from xt.metrics.xview3 import TOLERANCE, f1, match, without_low


def class_scores(
    predictions: LabelTable, labels: LabelTable, classes: Iterable[str], tolerance: float = TOLERANCE
) -> dict[str, float]:
    """Score predictions.

    Objects are matched as in :mod:`xt.metrics.xview3`: those of all classes for ``loc_f1``, those of one class with
    those of the same for its own.

    Args:
        predictions: Objects found, with their class.
        labels: Truth, all confidences; what is found of those nobody is sure of (LOW) does not count.
        classes: Those that are scored.
        tolerance: Pixels within which an object is found.

    Returns:
        ``f1``, the mean over the classes that occur in predictions or labels; ``loc_f1``; and ``f1_NAME`` of each class
        that occurs.
    """
    pairs = []
    for scene in sorted({*predictions.scenes, *labels.scenes}):
        pairs.append(without_low(predictions.scene(scene), labels.scene(scene), tolerance))
    found = {"loc_f1": _f1_of(pairs, tolerance)}
    for name in classes:
        mine = [(guessed.select(guessed.label == name), real.select(real.label == name)) for guessed, real in pairs]
        if any(len(guessed) or len(real) for guessed, real in mine):
            found[f"f1_{name}"] = _f1_of(mine, tolerance)
    of_classes = [value for name, value in found.items() if name != "loc_f1"]
    return {"f1": sum(of_classes) / max(len(of_classes), 1), **found}


def _f1_of(pairs: list[tuple[LabelTable, LabelTable]], tolerance: float) -> float:
    hits = sum(len(match(guessed, real, tolerance)[0]) for guessed, real in pairs)
    guessed, real = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    return f1(hits, guessed - hits, real - hits)
