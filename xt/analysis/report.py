"""Pictures of runs: loss curves, and scores side by side."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt

from xt.data.labels import LabelTable
from xt.errors import InputError
from xt.files import replacing

matplotlib.use("Agg")

from matplotlib import pyplot as plt

Series = dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]
"""Logged name → steps and values."""
SHOWN_PIXELS = 1600
"""A scene is drawn at most this large; overviews or every n-th pixel are read."""


def read_metrics(run: Path) -> Series:
    """Read ``metrics.csv`` of a run folder.

    Raises:
        InputError: If there is none.
    """
    path = run / "metrics.csv"
    if not path.is_file():
        raise InputError(f"{run} has no metrics.csv; give a run folder of xt train")
    rows: dict[str, list[tuple[int, float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["name"], []).append((int(row["step"]), float(row["value"])))
    return {name: (np.array([s for s, _ in each]), np.array([v for _, v in each])) for name, each in rows.items()}


def read_scores(run: Path, split: str) -> dict[str, float]:
    """Read what ``xt eval RUN --split SPLIT`` wrote.

    Raises:
        InputError: If it was not run.
    """
    path = run / f"{split}.json"
    if not path.is_file():
        raise InputError(f"{run} has no {path.name}; run xt eval {run} --split {split} first")
    scores: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return {name.partition("/")[2]: float(value) for name, value in scores.items()}


def by_name(runs: Sequence[Path]) -> dict[str, Path]:
    """Name of each run in the pictures: that of its folder, or the whole path where two folders have one name.

    Raises:
        InputError: If there is no such folder.
    """
    for run in runs:
        if not run.is_dir():
            raise InputError(f"{run}: no such run folder; give one that xt train made")
    names = [run.resolve().name for run in runs]
    return {name if names.count(name) == 1 else str(run): run for name, run in zip(names, runs, strict=True)}


def metrics(scores: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Names of all metrics, in the order in which runs have them."""
    return list(dict.fromkeys(name for values in scores.values() for name in values))


def for_nothing(labels: LabelTable) -> dict[str, float]:
    """Scores of calling every vessel fishing, which needs no model: ``fishing_fscore`` alone."""
    known = (labels.is_vessel == 1) & ~np.isnan(labels.is_fishing) & (labels.confidence != "LOW")
    share = float(np.mean(labels.is_fishing[known])) if known.any() else 0.0
    return {"fishing_fscore": 2 * share / (1 + share)}


def plot_curves(runs: Mapping[str, Path], out: Path) -> None:
    """Draw the training losses, smoothed, one panel for each, and the validation metrics; one line for each run."""
    series = {label: read_metrics(run) for label, run in runs.items()}
    names = sorted({name for each in series.values() for name in each}, key=lambda name: (name[:3] == "val", name))
    columns = min(len(names), 4)
    figure, axes = _grid(len(names), columns)
    for axis, name in zip(axes, names, strict=True):
        for label, each in series.items():
            if name in each:
                steps, values = each[name]
                axis.plot(*_smooth(steps, values), label=label, marker="." if name.startswith("val") else None)
        axis.set_title(name)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    axes[0].legend()
    save(figure, out)


def plot_scores(
    scores: Mapping[str, Mapping[str, float]], out: Path, reference: Mapping[str, float] | None = None
) -> None:
    """Draw scores as bars.

    Args:
        scores: Run → metric → value, mostly in 0..1; runs of different tasks have different metrics.
        out: PNG.
        reference: Metric → what is had for nothing, drawn as a line.
    """
    names = [name for name in metrics(scores) if name != "aggregate"]
    figure, axis = plt.subplots(figsize=(1.5 + 1.6 * len(names), 4.2), layout="constrained")
    width = 0.8 / len(scores)
    for index, (label, values) in enumerate(scores.items()):
        places = np.arange(len(names)) + (index - (len(scores) - 1) / 2) * width
        heights = np.array([values.get(name, np.nan) for name in names])
        bars = axis.bar(places, heights, width, label=label)
        axis.bar_label(bars, fmt="%.2f", fontsize=8)
    for name in set(reference or {}) & set(names):
        place, value = names.index(name), (reference or {})[name]
        axis.hlines(value, place - 0.45, place + 0.45, colors="black", linestyles="dashed", label="had for nothing")
    axis.set_xticks(range(len(names)), names)
    known = [value for values in scores.values() for value in values.values() if np.isfinite(value)]
    low, high = min([0.0, *known]), max([1.0, *known])
    axis.set_ylim(low - 0.08 * (high - low) * (low < 0), high + 0.08 * (high - low))
    figure.legend(loc="outside upper center", ncols=len(scores) + 1)
    save(figure, out)


def drawn_shape(dataset: Any) -> tuple[int, int]:
    """Height and width at which a raster is drawn."""
    scale = max(1.0, max(dataset.height, dataset.width) / SHOWN_PIXELS)
    return max(1, round(dataset.height / scale)), max(1, round(dataset.width / scale))


def first_band(dataset: Any, shape: tuple[int, int] | None = None) -> Any:
    """Its first band at the size at which it is drawn, or another; what is missing, NaN or infinite is masked."""
    return np.ma.masked_invalid(dataset.read(1, out_shape=shape or drawn_shape(dataset), masked=True))


def _smooth(
    steps: npt.NDArray[np.int64], values: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    width = max(1, len(values) // 20)
    if len(values) < 40:
        return steps, values
    mean = np.convolve(values, np.full(width, 1 / width), mode="valid")
    return steps[width - 1 :], mean


def _grid(num: int, columns: int) -> tuple[Any, list[Any]]:
    rows = -(-num // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.6 * columns, 2.6 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat[num:]:
        axis.set_visible(False)
    return figure, list(axes.flat[:num])


def save(figure: Any, out: Path) -> None:
    """Write a figure and forget it."""
    with replacing(out) as partial:
        figure.savefig(partial, dpi=100)
    plt.close(figure)
