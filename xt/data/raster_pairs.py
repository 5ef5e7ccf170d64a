"""Rasters with label rasters of the same size, for semantic segmentation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from xt.data.base import DataModule
from xt.data.geotiff import PLAIN, Mask, Pixels, open_raster
from xt.data.loading import Key, sample_rng
from xt.data.masks import Classes, ForegroundIndex, MaskReader, windows
from xt.data.source import Source
from xt.data.splits import Splits, rasters
from xt.data.statistics import measure
from xt.errors import ConfigError, InputError, at_least
from xt.geometry.grid import Window

IGNORE = 255


class RasterPairsData(DataModule):
    """Images and masks with equal names in two folders.

    Args:
        root: Folder that holds both.
        classes: Names; the value of a class in the mask is its index, unless ``colors`` are given.
        bands: Names of the bands that are read.
        band_indexes: 1-based bands of the file; all by default.
        images: Folder of the images under ``root``.
        masks: Folder of the masks under ``root``.
        colors: Colour (R, G, B) of every class but the first, which is everything else.
        validation: Regular expression; images whose name it matches validate, the others train.
        test: Likewise for the test images; those of validation by default.
        image_size: Side of a training crop in pixels.
        mean: Of each band; measured over the valid training pixels if not given.
        std: Likewise.
        ignore_index: Mask value that is not scored.
        nodata: Value of missing pixels, beside what the files say.
        batch_size: Crops of a batch.
        num_workers: Loader processes.
        seed: Of crops and order.
        validation_tile: Validation and test images with a longer side, in pixels, are cut into tiles of this side.
        crops_per_image: Training crops of each image in an epoch.
        centred: Share of training crops that hold a pixel which is not of the first class, where an image has one.
        gain: Training crops are brightened by ``exp(x)``, x normal with this deviation; for radar amplitudes, whose
            scale differs from scene to scene.
        resolution: Metres per pixel, if known.
    """

    gives = "mask"

    def __init__(
        self,
        root: str,
        classes: Sequence[str],
        bands: Sequence[str],
        validation: str,
        test: str | None = None,
        band_indexes: Sequence[int] | None = None,
        images: str = "images",
        masks: str = "masks",
        colors: Sequence[tuple[int, int, int]] | None = None,
        image_size: int = 512,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        ignore_index: int = IGNORE,
        nodata: float | None = None,
        batch_size: int = 4,
        num_workers: int = 0,
        seed: int = 0,
        crops_per_image: int = 1,
        centred: float = 0.0,
        gain: float = 0.0,
        resolution: float | None = None,
        validation_tile: int = 2048,
    ) -> None:
        super().__init__(root, image_size, batch_size, num_workers, seed)
        if colors is not None and len(colors) != len(classes) - 1:
            raise ConfigError(f"data: {len(classes)} classes need {len(classes) - 1} colors, got {len(colors)}")
        if (mean is None) != (std is None):
            raise ConfigError("data: give both mean and std, or neither to have them measured")
        self.classes, self.bands = tuple(classes), tuple(bands)
        self.band_indexes = tuple(band_indexes) if band_indexes else None
        self.image_folder, self.mask_folder = self.root / images, self.root / masks
        if 0 <= ignore_index < len(classes):
            raise ConfigError(
                f"data.init_args.ignore_index {ignore_index} is the number of class {classes[ignore_index]!r}; take "
                "one that no class has, such as -1"
            )
        self.colors, self.ignore_index, self.nodata = colors, ignore_index, nodata
        self.crops_per_image, self.validation_tile, self.resolution = crops_per_image, validation_tile, resolution
        self.centred, self.gain = centred, gain
        self.mean, self.std = tuple(mean or ()), tuple(std or ())
        at_least(1, "data.init_args", crops_per_image=crops_per_image, validation_tile=validation_tile)
        at_least(0, "data.init_args", gain=gain)
        if not 0 <= centred <= 1:
            raise ConfigError(f"data.init_args.centred is {centred}; it must lie between 0 and 1")
        self.splits = Splits(validation, test)
        self.masks = MaskReader(len(self.classes), ignore_index, colors)
        self.pairs: dict[str, list[tuple[Path, Path]]] = {}
        self.sources: dict[Path, Source] = {}

    def dataset(self, split: str) -> "RasterPairs":
        """Match images with masks, compare their sizes, and measure mean and std if they are not given."""
        if not self.pairs:
            self.pairs = self._match()
        if not self.mean:
            self.mean, self.std = measure(self.sources[image] for image, _ in self.pairs["train"])
        pairs = [(self.sources[image].with_statistics(self.mean, self.std), mask) for image, mask in self.pairs[split]]
        return RasterPairs(self, pairs, self.crops_per_image if split == "train" else None)

    def read_image(
        self, path: Path, window: Window | None = None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Read the raw pixels ``(C, h, w)`` of an image and what is valid."""
        source = self.sources[path]
        pixels, _, valid = source.read_raw(window or Window(0, 0, source.height, source.width))
        return pixels, valid

    def read_mask(self, path: Path, window: Window | None = None) -> npt.NDArray[np.int64]:
        """Read class indexes ``(h, w)``; nodata is ``ignore_index``."""
        return self.masks.read(path, window)

    def _match(self) -> dict[str, list[tuple[Path, Path]]]:
        for folder in (self.image_folder, self.mask_folder):
            if not folder.is_dir():
                raise InputError(f"data: no folder {folder}; set data.init_args.root to where images and masks are")
        masks = {path.stem: path for path in rasters(self.mask_folder)}
        found: list[tuple[Path, Path]] = []
        for image in rasters(self.image_folder):
            if image.stem not in masks:
                raise InputError(f"{image}: no mask of this name in {self.mask_folder}")
            mask = masks[image.stem]
            source = self.sources[image] = Source(image, self.inputs, self.band_indexes)
            with open_raster(mask, PLAIN, purpose="label") as b:
                if (source.height, source.width) != (b.height, b.width):
                    raise InputError(
                        f"{image}: {source.height} × {source.width} px, its mask has {b.height} × {b.width}; they must "
                        "be on one grid"
                    )
            found.append((image, mask))
        return self.splits.share(found, lambda pair: pair[0].stem)


class RasterPairs(Dataset[dict[str, Any]]):
    """Random crops or, with ``crops_per_image`` None, whole images, large ones in tiles."""

    def __init__(self, data: RasterPairsData, pairs: list[tuple[Source, Path]], crops_per_image: int | None) -> None:
        self.pairs, self.crops_per_image, self.masks = pairs, crops_per_image, data.masks
        self.size, self.seed, self.ignore_index = data.image_size, data.seed, data.ignore_index
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
            image, valid, mask = self._read(pair, window)
            whole = _size(source) == (window.height, window.width)
            place = "" if whole else f" rows {window.row}– columns {window.col}–"
            return {"image": image, "valid": valid[None], "mask": mask, "name": source.path.name + place}
        rng, pair = sample_rng(self.seed, key), key[1] % len(self.pairs)
        row, col = self._corner(rng, pair)
        turns, flip = int(rng.integers(4)), bool(rng.random() < 0.5)
        gain = float(np.exp(rng.normal(0, self.gain))) if self.gain else 1.0
        parts = self._read(pair, Window(row, col, self.size, self.size), gain)
        image, valid, mask = (_turned(each, turns, flip) for each in parts)
        return {"image": image, "valid": valid[None], "mask": mask, "name": self.pairs[pair][0].path.name}

    def _read(self, pair: int, window: Window, gain: float = 1.0) -> tuple[Pixels, Mask, Classes]:
        source, mask = self.pairs[pair]
        image, valid = source.read(window, gain)
        return image, valid, np.where(valid, self.masks.read(mask, window), self.ignore_index)

    def _corner(self, rng: np.random.Generator, pair: int) -> tuple[int, int]:
        height, width = _size(self.pairs[pair][0])
        last = [max(length - self.size, 0) for length in (height, width)]
        if self.centred and rng.random() < self.centred:

            def read(window: Window) -> Mask:
                _, _, mask = self._read(pair, window)
                return np.asarray((mask != 0) & (mask != self.ignore_index))

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
