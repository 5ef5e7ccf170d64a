"""Mean and deviation of bands, measured window by window."""

from collections.abc import Iterable

import numpy as np

from xt.data.masks import windows
from xt.data.source import Source
from xt.errors import InputError

SMALLEST_STD = 1e-6


def measure(sources: Iterable[Source]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measure mean and standard deviation of every band over valid pixels.

    Windows are joined by counts, means and sums of squared deviations in float64 (Chan, Golub and LeVeque 1983), so
    that a mean far from 0 costs no digits.

    Args:
        sources: Images of the same bands.

    Returns:
        Means and deviations per band, in the raster's unit; a deviation is at least :data:`SMALLEST_STD`.

    Raises:
        InputError: If an image cannot be read, or a band has no valid pixel.
    """
    count = mean = spread = np.zeros(0)
    for source in sources:
        for window in windows(source.height, source.width):
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
