"""Pictures of predicted maps beside the image and what is true."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import pyplot as plt
from matplotlib.colors import ListedColormap
from rasterio.errors import NodataShadowWarning

from xt.analysis.map_scores import score_map
from xt.analysis.map_truth import Areas, ClassTruth, Grid, TruthOptions
from xt.analysis.report import drawn_shape, first_band, save
from xt.data.georeference import check_same_grid, profile_of
from xt.data.geotiff import class_names, in_unit, open_raster
from xt.geometry.grid import Window
from xt.tasks.preview import class_colours


def plot_maps(
    scenes: Sequence[tuple[str, Path, Path, Path]],
    out: Path,
    options: TruthOptions | None = None,
) -> None:
    """Draw scenes below one another: the image, what is true, and what a map says, with its scores.

    Args:
        scenes: Title, image, map of classes or numbers, and what is true, of each.
        out: PNG.
        options: How what is true is to be read, as :func:`~xt.analysis.map_scores.score_map` takes it.

    Raises:
        InputError: As :func:`~xt.analysis.map_scores.score_map`, or if an image cannot be read or is on another grid.
    """
    options = options or TruthOptions()
    figure, axes = plt.subplots(len(scenes), 3, figsize=(14, 5 * len(scenes)), layout="constrained", squeeze=False)
    for row, (name, image, path, truth) in zip(axes, scenes, strict=True):
        scores = score_map(path, truth, options).scores
        with open_raster(image) as dataset:
            row[0].imshow(_looks(dataset), interpolation="nearest")
            grid = profile_of(dataset)
        with open_raster(path, purpose="label") as dataset:
            check_same_grid(path, profile_of(dataset), image, grid)
            said, names, bands = first_band(dataset), class_names(dataset), dataset.count
            true = _true(path, dataset, truth, options)
            if not np.issubdtype(said.dtype, np.integer):
                said = in_unit(dataset, 1, said)
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


def _true(path: Path, found: Any, truth: Path, options: TruthOptions) -> Any:
    """What is true of an open map, at the size at which it is drawn, masked."""
    if np.issubdtype(np.dtype(found.dtypes[0]), np.integer):
        return ClassTruth(path, found, truth, options).thumbnail(drawn_shape(found))
    with open_raster(truth, purpose="label") as dataset:
        numbers = in_unit(dataset, 1, first_band(dataset))
    areas = Areas(Grid(path, profile_of(found)), options.areas)
    inside = areas.inside(Window(0, 0, found.height, found.width), numbers.shape)
    return np.ma.masked_where(np.broadcast_to(~inside, numbers.shape), numbers)


def _looks(dataset: Any) -> npt.NDArray[np.float64]:
    """Three bands as red, green and blue, else the first in grey, ``(h, w, 4)``; missing pixels are transparent."""
    bands = [1, 2, 3] if dataset.count in (3, 4) else [1, 1, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NodataShadowWarning)  # beside an alpha band
        pixels = dataset.read(bands, out_shape=(3, *drawn_shape(dataset)), masked=True).astype(np.float64)
    known = ~np.ma.getmaskarray(pixels).any(0) & np.isfinite(pixels.data).all(0)
    low, high = np.percentile(pixels.data[:, known], (1, 99.7)) if known.any() else (0.0, 1.0)
    shown = np.clip((np.where(known, pixels.data, low) - low) / max(high - low, 1e-12), 0, 1)
    return np.concatenate([shown, known[None]]).transpose(1, 2, 0)
