"""Pictures of scenes with the objects that are there and those that were found."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib import pyplot as plt

from xt.analysis.report import drawn_shape, first_band, save
from xt.data.geotiff import open_raster
from xt.data.labels import LabelTable
from xt.metrics.xview3 import TOLERANCE, match

COLOURS = {"fishing": "tab:red", "vessel": "tab:cyan", "other": "gold"}
OUTLINE = [patheffects.withStroke(linewidth=3, foreground="black")]
"""Marks are seen on bright pixels, too."""
FULL_SIZE = 24
"""More scenes than these are drawn smaller."""
PANEL = 6.5, 2.4
"""Inches along a square scene, and at least."""
LONGEST = 2
"""A long scene is as many times as long as a square one at most."""
STRETCH = 8.0
"""A scene is drawn this many times as long as wide at most; longer ones are stretched across."""
CELL = 3.6
"""Inches that a title takes at least."""
LETTER = 0.09
"""Inches of a letter of a title."""
WIDEST = 32.0
"""Inches of a picture at most: of four scenes that are about square."""


def plot_scenes(
    rasters: Mapping[str, Path], found: LabelTable, truth: LabelTable, out: Path, tolerance: float = TOLERANCE
) -> None:
    """Draw scenes in a grid, with circles where objects are and crosses where they were found.

    Colours tell fishing vessels, other vessels and other objects, or classes; a cross of another colour than its circle
    is a mistake in kind, one without a circle a false alarm, a circle without a cross a miss.

    Args:
        rasters: Scene → a raster of it, whose first band is drawn.
        found: Predictions.
        truth: Labels.
        out: PNG.
        tolerance: Pixels within which an object is found.
    """
    tables = [(found.scene(name), truth.scene(name)) for name in rasters]
    kinds = {kind for pair in tables for table in pair for kind in table.kinds.tolist()}
    classes = sorted({*found.label.tolist(), *truth.label.tolist()} - {""})
    colours = {name: each for name, each in COLOURS.items() if name not in classes}
    colours |= {name: f"C{index}" for index, name in enumerate(classes)}
    colours = {name: each for name, each in colours.items() if name in kinds}
    panels = [_panel(path, len(rasters)) for path in rasters.values()]
    titles = [
        _title(name, path, *pair, tolerance, width)
        for (name, path), pair, (width, _) in zip(rasters.items(), tables, panels, strict=True)
    ]
    handles = [
        plt.Line2D([], [], color=colour, marker=marker, linestyle="", fillstyle="none", label=f"{what}: {kind}")
        for kind, colour in colours.items()
        for marker, what in (("o", "there"), ("+", "found"))
    ]
    figure, axes = _grid(panels, max(title.count("\n") + 1 for title in titles), handles)
    for axis, path, (width, height), title, pair in zip(axes, rasters.values(), panels, titles, tables, strict=True):
        _draw(axis, path, *pair, colours)
        axis.set_box_aspect(height / width)
        axis.set_title(title, fontsize=10, parse_math=False)
    save(figure, out)


def _panel(raster: Path, num: int) -> tuple[float, float]:
    """Width and height in inches at which one of so many scenes is drawn."""
    with open_raster(raster) as dataset:
        shape = dataset.width / dataset.height
    shape = min(max(shape, 1 / STRETCH), STRETCH)
    square = max(PANEL[1], PANEL[0] * min(1.0, math.sqrt(FULL_SIZE / num)))
    longer = min(square * math.sqrt(max(shape, 1 / shape)), square * LONGEST)
    return (longer, longer / shape) if shape >= 1 else (longer * shape, longer)


def _title(name: str, raster: Path, found: LabelTable, truth: LabelTable, tolerance: float, width: float) -> str:
    """What is said of a scene above a panel of this width."""
    with open_raster(raster) as dataset:
        size = np.array([dataset.height, dataset.width])
    hits = len(match(found, truth, tolerance)[0])
    lines = [name, f"{hits} of {len(truth)} objects found, {len(found) - hits} false alarms"]
    if max(size) / min(size) > STRETCH:
        lines.append(f"{size[1]} × {size[0]} px, not to scale")
    places = np.concatenate([np.stack([table.row, table.column], axis=1) for table in (found, truth)]) + 0.5
    if outside := int(((places < 0) | (places > size)).any(1).sum()):
        lines.append(f"{outside} marks lie outside the image")
    return "\n".join(textwrap.fill(line, int(max(width, CELL) / LETTER)) for line in lines)


def _cells(panels: Sequence[tuple[float, float]], lines: int) -> tuple[list[float], list[float]]:
    """Inches of the columns and rows of a grid that holds panels of these sizes under titles of so many lines."""
    columns = min(len(panels), int(WIDEST / max(CELL, *(width for width, _ in panels))))
    widths = [max(CELL, *(width for width, _ in panels[start::columns])) for start in range(columns)]
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    return widths, [0.45 + 0.17 * lines + max(height for _, height in row) for row in rows]


def _grid(panels: Sequence[tuple[float, float]], lines: int, handles: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Make a figure with a panel of each size, titles of so many lines, and a legend below."""
    widths, heights = _cells(panels, lines)
    entry = 0.7 + LETTER * max((len(handle.get_label()) for handle in handles), default=0)
    beside = max(1, min(int(sum(widths) / entry), len(handles) // 2))
    below = 0.35 + 0.22 * math.ceil(len(handles) / beside)
    figure, axes = plt.subplots(
        len(heights),
        len(widths),
        figsize=(sum(widths), sum(heights) + below),
        width_ratios=widths,
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=beside)
    return figure, list(axes.flat[: len(panels)])


def _draw(axis: Any, raster: Path, found: LabelTable, truth: LabelTable, colours: Mapping[str, str]) -> None:
    with open_raster(raster) as dataset:
        rows, cols = drawn_shape(dataset)
        # The short side of a scene that is stretched keeps the pixels that there is room for.
        rows = max(rows, min(dataset.height, round(cols / STRETCH)))
        cols = max(cols, min(dataset.width, round(rows / STRETCH)))
        pixels = first_band(dataset, (rows, cols)).astype(np.float64)
        down, across = dataset.height / rows, dataset.width / cols
    low, high = np.percentile(pixels.compressed(), (1, 99.7)) if pixels.count() else (0, 1)
    axis.imshow(pixels.filled(low), cmap="gray", vmin=low, vmax=high, aspect="auto")
    axis.autoscale(False)
    for table, marker, area in ((truth, "o", 170), (found, "+", 80)):
        for kind, colour in colours.items():
            mine = table.kinds == kind
            style: dict[str, Any] = {"facecolors": "none", "edgecolors": colour} if marker == "o" else {"c": colour}
            places = (table.column[mine] / across, table.row[mine] / down)
            axis.scatter(*places, s=area, marker=marker, linewidths=1.5, path_effects=OUTLINE, **style)
    axis.set_xticks([])
    axis.set_yticks([])
