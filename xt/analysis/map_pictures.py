"""Pictures of predicted maps beside the image and what is true."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import pyplot as plt
from matplotlib.colors import ListedColormap

from xt.analysis.map_scores import score_map
from xt.analysis.report import drawn_shape, first_band, save
from xt.data.geotiff import PLAIN, class_names, open_raster
from xt.data.masks import Color, of_colors
from xt.tasks.preview import class_colours


def plot_maps(
    scenes: Sequence[tuple[str, Path, Path, Path]],
    out: Path,
    ignore: int | None = None,
    colors: Sequence[Color] | None = None,
) -> None:
    """Draw scenes below one another: the image, what is true, and what a map says, with its scores.

    Args:
        scenes: Title, image, map of classes or numbers, and raster of what is true, of each, on one grid.
        out: PNG.
        ignore: Class index that is not known, as :func:`~xt.analysis.map_scores.score_map` takes it.
        colors: Likewise.

    Raises:
        InputError: As :func:`~xt.analysis.map_scores.score_map`, or if an image cannot be read.
    """
    figure, axes = plt.subplots(len(scenes), 3, figsize=(14, 5 * len(scenes)), layout="constrained", squeeze=False)
    for row, (name, image, path, truth) in zip(axes, scenes, strict=True):
        scores = score_map(path, truth, ignore, colors).scores
        with open_raster(image, PLAIN) as dataset:
            row[0].imshow(_looks(dataset), interpolation="nearest")
        with open_raster(path, PLAIN, purpose="label") as dataset:
            said, names, bands = first_band(dataset), class_names(dataset), dataset.count
        with open_raster(truth, PLAIN, purpose="label") as dataset:
            true = first_band(dataset)
            if colors:
                true = np.ma.masked_array(of_colors(dataset.read([1, 2, 3], out_shape=(3, *true.shape)), colors))
        if ignore is not None:
            true = np.ma.masked_equal(true, ignore)
        if np.issubdtype(said.dtype, np.integer):
            highest = max(1, *(int(each.max()) for each in (said, true) if each.count()), *names)
            shades = ListedColormap(np.array(class_colours(highest + 1)) / 255)
            limits = {"cmap": shades, "vmin": -0.5, "vmax": highest + 0.5}
            handles = [plt.Rectangle((0, 0), 1, 1, color=shades(number), label=names[number]) for number in names]
            if handles:
                row[1].legend(handles=handles, fontsize=8, loc="upper right")
        else:
            known = true.compressed()
            limits = dict(zip(("vmin", "vmax"), np.percentile(known, (1, 99)) if len(known) else (0, 1), strict=True))
        for axis, pixels in zip(row[1:], (true, said), strict=True):
            drawn = axis.imshow(pixels, interpolation="nearest", **limits)
        if not np.issubdtype(said.dtype, np.integer):
            figure.colorbar(drawn, ax=list(row[1:]), shrink=0.8)
        shown = ", ".join(f"{name} {value:.3f}" for name, value in list(scores.items())[:2])
        titles = name, "true", f"predicted{', first band' if bands > 1 else ''}: {shown}"
        for axis, title in zip(row, titles, strict=True):
            axis.set_title(title)
            axis.set_facecolor("0.3")
            axis.set_xticks([])
            axis.set_yticks([])
    save(figure, out)


def _looks(dataset: Any) -> npt.NDArray[np.float64]:
    """Three bands as red, green and blue, else the first in grey, ``(h, w, 4)``; missing pixels are transparent."""
    bands = [1, 2, 3] if dataset.count in (3, 4) else [1, 1, 1]
    pixels = dataset.read(bands, out_shape=(3, *drawn_shape(dataset)), masked=True).astype(np.float64)
    known = ~np.ma.getmaskarray(pixels).any(0) & np.isfinite(pixels.data).all(0)
    low, high = np.percentile(pixels.data[:, known], (1, 99.7)) if known.any() else (0.0, 1.0)
    shown = np.clip((np.where(known, pixels.data, low) - low) / max(high - low, 1e-12), 0, 1)
    return np.concatenate([shown, known[None]]).transpose(1, 2, 0)
