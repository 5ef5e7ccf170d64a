"""Mean and deviation of bands, measured window by window."""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from xt.data.masks import windows
from xt.data.source import Source
from xt.errors import InputError
from xt.geometry.grid import Window

SMALLEST_STD = 1e-6
MOST = 2**28
"""Pixels that are looked at, of each band: seconds, however many there are."""


def measure(sources: Iterable[Source], most: int = MOST) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measure mean and standard deviation of every band over valid pixels.

    Of more than ``most`` pixels it looks at windows drawn from all images, always the same ones, and at more of them
    only where a band would have no valid pixel. Windows are joined by counts, means and sums of squared deviations in
    float64 (Chan, Golub and LeVeque 1983), so that a mean far from 0 costs no digits.

    Args:
        sources: Images of the same bands.
        most: Pixels of each band that are looked at.

    Returns:
        Means and deviations per band, in the raster's unit; a deviation is at least :data:`SMALLEST_STD`.

    Raises:
        InputError: If an image cannot be read, or a band has no valid pixel.
    """
    count = mean = spread = np.zeros(0)
    for source, window, drawn in _places(list(sources), most):
        if not drawn and count.all():
            break
        pixels, known, valid = source.read_raw(window)
        used = known & valid
        more = used.sum((1, 2)).astype(np.float64)
        local = pixels.sum((1, 2), np.float64, where=used) / np.maximum(more, 1)
        squares = (np.square(pixels - local[:, None, None])).sum((1, 2), where=used)
        if not count.size:
            count, mean, spread = more, local, squares
            continue
        total = np.maximum(count + more, 1)
        shift = local - mean
        mean = mean + shift * more / total
        spread = spread + squares + shift**2 * count * more / total
        count = count + more
    if not count.size or not count.all():
        raise InputError("data: a band of the training images holds no valid pixel; check bands and nodata")
    std = np.maximum(np.sqrt(spread / count), SMALLEST_STD)
    return tuple(map(float, mean)), tuple(map(float, std))


def _places(sources: Sequence[Source], most: int) -> Iterator[tuple[Source, Window, bool]]:
    """Windows of all images, first those that are drawn, then the others; in their own order each time."""
    counts = [len(windows(source.height, source.width)) for source in sources]
    pixels = sum(source.height * source.width for source in sources)
    share = min(1.0, most / max(pixels, 1))
    drawn = np.zeros(sum(counts), bool)
    drawn[np.random.default_rng(0).choice(len(drawn), math.ceil(len(drawn) * share), replace=False)] = True
    for now in (True, False):
        for source, own in zip(sources, np.split(drawn, np.cumsum(counts)[:-1]), strict=True):
            every = windows(source.height, source.width)
            yield from ((source, every[index], now) for index in np.flatnonzero(own == now))
