"""Figures of a sweep as JSON and as a table."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xt.analysis.bench.measure import SHORTEST, SMALLEST, exponent
from xt.analysis.bench.settings import BOTH, FORWARD, MODES
from xt.analysis.bench.sweep import Series

Facts = dict[str, Any]
Column = tuple[str, Callable[[Facts, str], str]]
"""Heading, and what stands under it for a point and a mode."""
TITLES = {"forward": "forward", "both": "forward + backward"}


def figures(series: Mapping[str, Series], clock: str, since: int | None = None) -> Facts:
    """Turn the series of a side into numbers and lists.

    Args:
        series: Mode → series.
        clock: Which time exponents are of: ``"seconds"`` or ``"cpu_seconds"``.
        since: Exponents are of lengths from here on; by default of the upper half, two at least.
    """
    found: Facts = {"exponents": {}}
    for mode, each in series.items():
        points = sorted(each.points.items())
        upper = [(n, spent) for n, spent in points[-max(2, math.ceil(len(points) / 2)) :]]
        if since is not None:
            upper = [(n, spent) for n, spent in points if n >= since]
        sizes = [n for n, _ in upper]
        found["exponents"][mode] = {
            "tokens": sizes,
            "time": exponent(sizes, [spent.on(clock) for _, spent in upper], SHORTEST),
            "memory": exponent(sizes, [spent.mebibytes or 0.0 for _, spent in upper], SMALLEST),
        }
        found[mode] = [
            {"tokens": n, "seconds": s.seconds, "cpu_seconds": s.cpu_seconds, "mebibytes": s.mebibytes}
            for n, s in points
        ]
        if each.stopped is not None:
            found.setdefault("stopped", {})[mode] = each.stopped
    return found


def table(
    sides: Mapping[str, Facts], clock: str, heads: Mapping[str, str], more: Sequence[Column] = (), slope: bool = True
) -> str:
    """Lay sides out as text: a row for each length, one of the exponents, and why a side stopped.

    Args:
        sides: Name → what :func:`figures` says.
        clock: Which time is shown.
        heads: Name → what stands under it, such as its parameters.
        more: Columns after the time of each mode.
        slope: Show exponents.
    """
    columns: list[Column] = [
        ("s", lambda point, mode: digits(point[clock])),
        *more,
        ("MiB", lambda point, mode: f"{point['mebibytes']:.0f}"),
    ]
    rows = [["", "tokens", *(name for _ in MODES for name, _ in columns)]]
    for side, facts in sides.items():
        start = len(rows)
        points = {mode: {point["tokens"]: point for point in facts.get(mode, ())} for mode in MODES}
        for tokens in sorted({n for by_tokens in points.values() for n in by_tokens}):
            cells = [
                show(points[mode][tokens], mode) if tokens in points[mode] else "–"
                for mode in MODES
                for _, show in columns
            ]
            rows.append(["", f"{tokens:,}", *cells])
        if slope:
            rows.append(["", "exponent", *_exponents(facts, [name for name, _ in columns])])
        for index, text in enumerate((side, heads.get(side, ""))):
            if start + index == len(rows):
                rows.append([text])
            rows[start + index][0] = text
        stopped = facts.get("stopped", {})
        rows += [[f"  {TITLES[mode]} stopped at {reason}"] for mode, reason in stopped.items()]
    return _aligned(rows, len(columns))


def digits(value: float) -> str:
    """Three digits that count."""
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _exponents(facts: Facts, columns: Sequence[str]) -> list[str]:
    found = []
    for mode in MODES:
        of_mode = facts["exponents"].get(mode, {})
        for column in columns:
            value = of_mode.get({"s": "time", "MiB": "memory"}.get(column, ""))
            found.append("" if value is None else f"{value:.2f}")
    return found


def _aligned(rows: Sequence[Sequence[str]], columns: int) -> str:
    """Align cells, each mode's columns under its name; a row of one cell is a line of its own."""
    full = [row for row in rows if len(row) > 1]
    widths = [max(len(row[i]) for row in full) for i in range(len(full[0]))]
    first = 2 + columns  # of the second mode
    widths[2] = max(widths[2], len(TITLES[FORWARD]) + 2 - sum(widths[3:first]) - 2 * (columns - 1))
    widths[2], widths[first] = widths[2] + 2, widths[first] + 2  # apart from what stands before
    place, second = sum(widths[:2]) + 4 + 2, sum(widths[:first]) + 2 * first + 2
    lines = [f"{'':{place}}{TITLES[FORWARD]:{second - place}}{TITLES[BOTH]}"]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=False))]
        lines.append(row[0] if len(row) == 1 else "  ".join(cells).rstrip())
    return "\n".join(lines)
