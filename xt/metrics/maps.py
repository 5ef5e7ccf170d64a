"""Scores of maps, by counts of pixels."""

from collections.abc import Mapping

Counts = Mapping[tuple[int, int], int]
"""(found, true) class → pixels."""


def class_scores(counts: Counts, names: Mapping[int, str], background: bool = True) -> dict[str, float]:
    """IoU and F1 of each class that occurs, and their means, without the first if it is background.

    Args:
        counts: Pixels of each pair of a found and a true class.
        names: Class → name, in the order of the result.
        background: Whether the first is background, which the means leave out.

    Returns:
        ``iou``, ``f1``, then ``iou_NAME`` and ``f1_NAME``. A mean of nothing is left out.
    """
    each: dict[str, dict[str, float]] = {"iou": {}, "f1": {}}
    for number, name in names.items():
        both = counts.get((number, number), 0)
        one = sum(pixels for pair, pixels in counts.items() if (pair[0] == number) != (pair[1] == number))
        if both + one:
            each["iou"][name] = both / (both + one)
            each["f1"][name] = 2 * both / (2 * both + one)
    left = next(iter(names.values()), None) if background else None
    found: dict[str, float] = {}
    for metric, values in each.items():
        counted = [value for name, value in values.items() if name != left]
        if counted:
            found[metric] = sum(counted) / len(counted)
    return found | {f"{metric}_{name}": value for metric, values in each.items() for name, value in values.items()}
