"""Samples of dense tasks: crops or tiles of images, and what is known of their pixels."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

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


class PixelLabels(Protocol):
    """Reads what is known of the pixels of an image."""

    @property
    def key(self) -> str:
        """Under which it stands in a sample."""

    @property
    def missing(self) -> float:
        """Value where nothing is known."""

    def read(self, path: Path, window: Window | None = None) -> npt.NDArray[Any]:
        """Read a window ``(…, h, w)``, which may reach over the border, or all."""


@runtime_checkable
class PartialLabels(PixelLabels, Protocol):
    """Labels that know, without reading, of which parts of an image nothing is known."""

    def tells(self, path: Path, window: Window) -> bool:
        """Whether something may be known of a window."""

    def somewhere(self, path: Path, rng: np.random.Generator) -> tuple[int, int] | None:
        """A pixel of which something is known, each as likely; None if that may be any."""


class RasterPairs(Dataset[dict[str, Any]]):
    """Random crops or, with ``crops_per_image`` None, whole images, large ones in tiles."""

    def __init__(self, data: "PairedRasters", pairs: list[tuple[Source, Path]], crops_per_image: int | None) -> None:
        self.pairs, self.crops_per_image, self.labels = pairs, crops_per_image, data.labels
        self.size, self.seed = data.image_size, data.seed
        self.centred, self.gain = data.centred, data.gain
        self.foreground = ForegroundIndex()
        tile = data.validation_tile
        self.partial = data.labels if isinstance(data.labels, PartialLabels) else None
        self.tiles = [
            (i, each)
            for i, (source, path) in enumerate(pairs if crops_per_image is None else [])
            for each in windows(*_size(source), tile)
            if self.partial is None or self.partial.tells(path, each)
        ]

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
                return self._around(wanted.find(int(rng.integers(number)), read), rng, last)
        known = None if self.partial is None else self.partial.somewhere(self.pairs[pair][1], rng)
        if known is not None:
            return self._around(known, rng, last)
        row, col = (int(rng.integers(length + 1)) for length in last)
        return row, col

    def _around(self, pixel: tuple[int, int], rng: np.random.Generator, last: list[int]) -> tuple[int, int]:
        """A corner such that a pixel comes to lie anywhere in the crop."""
        row, col = np.clip(pixel - rng.integers(self.size, size=2), 0, last).tolist()
        return row, col


def _size(source: Source) -> tuple[int, int]:
    return source.height, source.width


def _turned(array: Any, turns: int, flip: bool) -> Any:
    turned = np.rot90(array, turns, axes=(-2, -1))
    return np.ascontiguousarray(turned[..., ::-1] if flip else turned)
