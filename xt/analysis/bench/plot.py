"""Time and memory over tokens, as a picture."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, NullFormatter

from xt.analysis.bench.results import TITLES, Facts

STYLES = {"forward": "--", "both": "-"}
MARKERS = "osD^vPX*"
MANY = 8
"""Above so many sides the legend leaves out arguments that all of a class share."""


def plot(groups: Mapping[str, Mapping[str, Facts]], clock: str, heading: str, out: Path) -> None:
    """Draw a row of panels for each group: time and memory over tokens, both logarithmic; a colour for each side.

    Args:
        groups: Title → side → what :func:`xt.analysis.bench.results.figures` says.
        clock: Which time is drawn.
        heading: Stands above all.
        out: PNG.
    """
    tallest = max((len(sides) for sides in groups.values()), default=0)
    size = (11, 0.6 + max(4.2, 0.3 * tallest) * len(groups))
    figure, axes = plt.subplots(len(groups), 2, figsize=size, layout="constrained", squeeze=False)
    for row, (title, every) in zip(axes, groups.items(), strict=True):
        sides = {name: facts for name, facts in every.items() if facts.get("parameters", 1)}  # not what does nothing
        for axis, key, unit in zip(row, (clock, "mebibytes"), (_TIMES[clock], "peak memory (MiB)"), strict=True):
            _panel(axis, sides, key)
            axis.set_title(title)
            axis.set_ylabel(unit)
        _legend(row[1], sides)
    figure.suptitle(heading, fontsize=10)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def plot_learned(learned: Mapping[str, Facts], out: Path) -> None:
    """Draw the first test score of each encoder, a dot for each seed, beside how its mean grew on validation.

    Args:
        learned: What :func:`xt.analysis.bench.learn.learn` gave.
        out: PNG.
    """
    scored = {name: list(facts["seeds"].values()) for name, facts in learned.items() if facts["seeds"]}
    score = next((score for runs in scored.values() for score in runs[0]["test"]), "score")
    values = {name: [run["test"][score] for run in runs] for name, runs in scored.items()}
    order = sorted(values, key=lambda name: sum(values[name]) / len(values[name]))
    size = (13, 1.4 + 0.3 * max(6, len(order)))
    figure, (bars, curves) = plt.subplots(1, 2, figsize=size, layout="constrained", width_ratios=(2, 3))
    for row, name in enumerate(order):
        bars.barh(row, sum(values[name]) / len(values[name]), color=f"C{row}", alpha=0.6)
        bars.plot(values[name], [row] * len(values[name]), ".", color="black")
        _curve(curves, [run["validation"].get(score, []) for run in scored[name]], row)
    bars.set_yticks(range(len(order)), _short_names(order))
    bars.set_xlabel(f"{score} on test data")
    curves.set_xlabel("steps")
    curves.set_ylabel(f"{score} on validation data")
    curves.grid(alpha=0.3)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def _curve(axis: Any, runs: list[list[tuple[int, float]]], row: int) -> None:
    """The mean over seeds, at the steps at which all were validated."""
    at = [dict(run) for run in runs]
    steps = sorted(set.intersection(*(set(each) for each in at)))
    means = [sum(each[step] for each in at) / len(at) for step in steps]
    style = ("-", "--")[row // 10 % 2]  # colours come again
    axis.plot(steps, means, style, color=f"C{row}", marker=MARKERS[row % len(MARKERS)], markersize=3)


_TIMES = {"cpu_seconds": "time of the processor (s)", "seconds": "time (s)"}


def _panel(axis: Any, sides: Mapping[str, Facts], key: str) -> None:
    least = 1.0 if key == "mebibytes" else 1e-5  # below it is noise
    drawn: list[tuple[int, float]] = []
    for index, facts in enumerate(sides.values()):
        for mode, style in STYLES.items():
            points = [(p["tokens"], p[key]) for p in facts.get(mode, ()) if p[key] >= least]
            if points:
                marker = MARKERS[index % len(MARKERS)]
                axis.plot(*zip(*points, strict=True), style, color=f"C{index}", marker=marker, markersize=5)
            drawn += points
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("tokens")
    axis.grid(alpha=0.3)
    if drawn:
        ticks = sorted({tokens for tokens, _ in drawn})
        axis.set_xticks(ticks)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _short(round(x))))
        axis.xaxis.set_minor_formatter(NullFormatter())
        _slopes(axis, ticks, min(value for tokens, value in drawn if tokens == ticks[0]))


def _slopes(axis: Any, ticks: list[int], low: float) -> None:
    """Grey lines that grow linearly and quadratically, from the lowest value at the fewest tokens on."""
    limits = axis.get_ylim()
    for power, name in ((1, "linear"), (2, "quadratic")):
        ends = [low * (n / ticks[0]) ** power for n in (ticks[0], ticks[-1])]
        axis.plot((ticks[0], ticks[-1]), ends, color="0.7", linestyle=":", zorder=0)
        axis.annotate(
            name, (ticks[-1], ends[1]), color="0.5", fontsize=8, ha="right", va="bottom", annotation_clip=True
        )
    axis.set_ylim(limits)


def _legend(axis: Any, sides: Mapping[str, Facts]) -> None:
    handles = []
    labels = _short_names(list(sides)) if len(sides) > MANY else list(sides)
    for index, name in enumerate(labels):
        marker = MARKERS[index % len(MARKERS)]
        handles.append(plt.Line2D([], [], color=f"C{index}", marker=marker, label=_broken(name)))
    handles += [plt.Line2D([], [], color="black", linestyle=style, label=TITLES[m]) for m, style in STYLES.items()]
    handles.append(plt.Line2D([], [], color="0.7", linestyle=":", label="linear, quadratic"))
    axis.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9)


def _short_names(names: list[str]) -> list[str]:
    """Leave out the arguments that do not tell encoders of one class apart."""
    split = [(name.split(":")[0], re.split(r",(?![^\[]*\])", name.partition(":")[2])) for name in names]
    alike = {own: [arguments for other, arguments in split if other == own] for own, _ in split}
    shared = {own: set(every[0]).intersection(*every) if len(every) > 1 else None for own, every in alike.items()}
    found = []
    for own, arguments in split:
        common = shared[own]
        kept = [] if common is None else [each for each in arguments if each and each not in common]
        found.append(":".join([own, ",".join(kept)] if kept else [own]))
    return found


def _broken(name: str) -> str:
    """Break the arguments of an encoder into lines of their own."""
    return name.replace(":", ":\n  ").replace(",", ",\n  ")


def _short(tokens: int) -> str:
    for unit, size in (("M", 2**20), ("k", 2**10)):
        if tokens >= size and tokens % size == 0:
            return f"{tokens // size}{unit}"
    return str(tokens)
