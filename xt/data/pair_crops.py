"""Samples of dense tasks: crops or tiles of images, and what is known of their pixels."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from xt.data.geotiff import Mask, Pixels
from xt.data.loading import Key, sample_rng
from xt.data.masks import ForegroundIndex, windows
from xt.data.source import Source
from xt.geometry.grid import Window

if TYPE_CHECKING:
    from xt.data.paired_rasters import PairedRasters


class RasterPairs(Dataset[dict[str, Any]]):
    """Random crops or, with ``crops_per_image`` None, whole images, large ones in tiles."""

    def __init__(self, data: "PairedRasters", pairs: list[tuple[Source, Path]], crops_per_image: int | None) -> None:
        self.pairs, self.crops_per_image, self.labels = pairs, crops_per_image, data.labels
        self.size, self.seed = data.image_size, data.seed
        self.centred, self.gain = data.centred, data.gain
        self.foreground = ForegroundIndex()
        tile = data.validation_tile
        self.tiles = [(i, each) for i, (source, _) in enumerate(pairs) for each in windows(*_size(source), tile)]

    def __len__(self) -> int:
        return len(self.tiles) if self.crops_per_image is None else len(self.pairs) * self.crops_per_image

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """Return the sample of ``(epoch, index)``."""
        if self.crops_per_image is None:
            pair, window = self.tiles[key[1]]
            source, _ = self.pairs[pair]
            image, valid, known = self._read(pair, window)
            whole = _size(source) == (window.height, window.width)
            place = "" if whole else f" rows {window.row}– columns {window.col}–"
            return self._sample(image, valid, known, source.path.name + place)
        rng, pair = sample_rng(self.seed, key), key[1] % len(self.pairs)
        row, col = self._corner(rng, pair)
        turns, flip = int(rng.integers(4)), bool(rng.random() < 0.5)
        gain = float(np.exp(rng.normal(0, self.gain))) if self.gain else 1.0
        parts = self._read(pair, Window(row, col, self.size, self.size), gain)
        image, valid, known = (_turned(each, turns, flip) for each in parts)
        return self._sample(image, valid, known, self.pairs[pair][0].path.name)

    def _sample(self, image: Pixels, valid: Mask, known: npt.NDArray[Any], name: str) -> dict[str, Any]:
        return {"image": image, "valid": valid[None], self.labels.key: known, "name": name}

    def _read(self, pair: int, window: Window, gain: float = 1.0) -> tuple[Pixels, Mask, npt.NDArray[Any]]:
        source, path = self.pairs[pair]
        image, valid = source.read(window, gain)
        known = self.labels.read(path, window)
        return image, valid, np.where(valid, known, np.asarray(self.labels.missing, known.dtype))

    def _corner(self, rng: np.random.Generator, pair: int) -> tuple[int, int]:
        height, width = _size(self.pairs[pair][0])
        last = [max(length - self.size, 0) for length in (height, width)]
        if self.centred and rng.random() < self.centred:

            def read(window: Window) -> Mask:
                _, _, mask = self._read(pair, window)
                return np.asarray((mask != 0) & (mask != self.labels.missing))

            wanted = self.foreground.get(pair, height, width, read)
            if number := len(wanted):
                # The pixel may come to lie anywhere in the crop.
                pixel = wanted.find(int(rng.integers(number)), read) - rng.integers(self.size, size=2)
                row, col = np.clip(pixel, 0, last).tolist()
                return row, col
        row, col = (int(rng.integers(length + 1)) for length in last)
        return row, col


def _size(source: Source) -> tuple[int, int]:
    return source.height, source.width


def _turned(array: Any, turns: int, flip: bool) -> Any:
    turned = np.rot90(array, turns, axes=(-2, -1))
    return np.ascontiguousarray(turned[..., ::-1] if flip else turned)
