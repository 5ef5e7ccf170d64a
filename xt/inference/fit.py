"""Signs that an image is not what a model was trained on; of each the user is warned, and nothing else changes."""

import warnings
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from xt.data.address import shown
from xt.data.geotiff import Mask, Pixels
from xt.data.source import Source
from xt.errors import XTWarning

REGIONS = 8
"""Regions with data whose values are looked at, the first that are read."""
PIXELS = 4096
"""Of each of them, at most."""
FEWEST = 100
"""Pixels of which anything is said."""
FAR = 20.0
"""Deviations from the mean at which values of the same unit do not lie, if they are large (:data:`LARGE`) as well."""
LARGE = 8.0
"""Times mean and deviation together; clouds over a dark training set are not so large."""
NARROW = 0.02
"""Of a deviation: values which all lie so near to 0 and to each other are on a smaller scale, such as 0 to 1."""
FLAT = 0.1
"""Of a deviation, within which positive values lie that should be decibels: such is linear power."""


def warn_of_bands(source: Source) -> None:
    """Warn where a file calls its bands as the model does, and another order of them is read."""
    wanted = [name.casefold() for name in source.inputs.bands]
    names = [(name or "").strip().casefold() for name in source.names]
    if any(names.count(name) != 1 for name in wanted):
        return
    fitting = tuple(names.index(name) + 1 for name in wanted)
    if fitting != source.indexes:
        read = ", ".join(source.names[index - 1] or "" for index in source.indexes)
        warnings.warn(
            f"{shown(source.path)}: bands {read} are read as {', '.join(source.inputs.bands)}; by their names they are "
            f"--bands {','.join(map(str, fitting))}",
            XTWarning,
            stacklevel=3,
        )


class ValueWatch:
    """Looks at the first regions of an image as they are read, and warns once where their values are of another scale.

    Args:
        source: The image.
    """

    def __init__(self, source: Source) -> None:
        self.name, self.inputs, self.coarse = shown(source.path), source.inputs, source.coarse
        self.is_over = False
        self._seen: list[npt.NDArray[np.float32]] = []

    def see(self, pixels: Pixels, valid: Mask) -> None:
        """Look at a region: ``(C, R, R)`` as the model takes it, and ``(R, R)``, what is valid."""
        if self.is_over or not valid.any():
            return
        values = pixels[:, valid]
        self._seen.append(values[:, :: -(-values.shape[1] // PIXELS)].copy())
        if len(self._seen) == REGIONS:
            self.tell()

    def tell(self) -> None:
        """Warn, if what has been seen gives reason to; whatever comes later is not looked at."""
        if self.is_over:
            return
        self.is_over = True
        seen, self._seen = self._seen, []
        if sum(each.shape[1] for each in seen) < FEWEST:
            return
        odd = self._odd_bands(np.concatenate(seen, axis=1).astype(np.float64))
        if odd:
            index, value = next(iter(odd.items()))
            mean, std = self.inputs.mean[index], self.inputs.std[index]
            others = f" (and so {len(odd) - 1} more)" if len(odd) > 1 else ""
            warnings.warn(
                f"{self.name}: band {self.inputs.bands[index]}{others}: values around {_short(value)}, the model was "
                f"trained on {_short(mean)} ± {_short(std)}; check unit and scale, the result may mean nothing",
                XTWarning,
                stacklevel=4,
            )

    def _odd_bands(self, values: npt.NDArray[np.float64]) -> dict[int, float]:
        """Index → median in the raster's unit, of bands ``(C, N)`` on another scale than in training."""
        odd, small, looked_at = {}, {}, 0
        statistics = zip(self.inputs.bands, self.inputs.mean, self.inputs.std, strict=True)
        for index, (band, mean, std) in enumerate(statistics):
            if band in self.coarse or (mean, std) == (0, 1):  # the latter: not measured
                continue
            looked_at += 1
            low, middle, high = np.quantile(values[index], (0.05, 0.5, 0.95)).tolist()
            raw_low, raw, raw_high = (mean + std * each for each in (low, middle, high))
            is_linear = mean + std < 0 <= raw_low and 0 < high - low < FLAT
            is_far = np.median(np.abs(values[index])) > FAR and abs(raw) > LARGE * (abs(mean) + std)
            if is_far or is_linear:
                odd[index] = raw
            if 0 < high - low < NARROW and max(abs(raw_low), abs(raw_high)) < NARROW * std:
                small[index] = raw
        return odd or (small if len(small) == looked_at else {})


def _short(value: float) -> str:
    """Three digits, which are exact though the values went through those of the model."""
    return f"{float(f'{value:.3g}'):g}"


def watch_of(source: Source) -> ValueWatch:
    """The watch over an image, the same in all passes over it."""
    return _watches.setdefault(source, ValueWatch(source))


_watches: WeakKeyDictionary[Source, ValueWatch] = WeakKeyDictionary()
