"""Rasters with label rasters of the same size, for semantic segmentation."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader, Dataset

from xt.data.base import DataModule
from xt.data.geotiff import PLAIN, check_bands, describe, open_raster, read_window
from xt.data.loading import Key, make_loader, sample_rng
from xt.errors import ConfigError, InputError, at_least
from xt.geometry.grid import Window

IGNORE = 255
SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")


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
        crops_per_image: Training crops of each image in an epoch.
        centred: Share of training crops that hold a pixel which is not of the first class, where an image has one.
        gain: Training crops are brightened by ``exp(x)``, x normal with this deviation; for radar amplitudes, whose
            scale differs from scene to scene.
        resolution: Metres per pixel, if known.
    """

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
    ) -> None:
        super().__init__()
        if colors is not None and len(colors) != len(classes) - 1:
            raise ConfigError(f"data: {len(classes)} classes need {len(classes) - 1} colors, got {len(colors)}")
        if (mean is None) != (std is None):
            raise ConfigError("data: give both mean and std, or neither to have them measured")
        self.root = Path(root)
        self.classes, self.bands, self.image_size = tuple(classes), tuple(bands), image_size
        self.band_indexes = tuple(band_indexes) if band_indexes else None
        self.image_folder, self.mask_folder = self.root / images, self.root / masks
        self.validation, self.test = validation, test
        self.colors, self.ignore_index, self.nodata = colors, ignore_index, nodata
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.crops_per_image, self.resolution = crops_per_image, resolution
        self.centred, self.gain = centred, gain
        self.mean, self.std = tuple(mean or ()), tuple(std or ())
        self.check_sizes(crops_per_image=crops_per_image)
        at_least(0, "data.init_args", gain=gain)
        if not 0 <= centred <= 1:
            raise ConfigError(f"data.init_args.centred is {centred}; it must lie between 0 and 1")
        for key, pattern in (("validation", validation), ("test", test)):
            _check_pattern(key, pattern)
        self.skip_batches = 0
        self.pairs: dict[str, list[tuple[Path, Path]]] = {}

    def setup(self, stage: str) -> None:
        """Match images with masks, compare their sizes, and measure mean and std if they are not given."""
        if not self.pairs:
            self.pairs = self._match()
            if not self.mean:
                self.mean, self.std = self._measure(self.pairs["train"])

    def train_dataloader(self) -> DataLoader[Any]:
        """Random crops, flipped and turned."""
        skip, self.skip_batches = self.skip_batches, 0
        return make_loader(self._dataset("train"), self.batch_size, self.num_workers, self.seed, True, skip)

    def val_dataloader(self) -> DataLoader[Any]:
        """Whole images, one at a time."""
        return make_loader(self._dataset("validation"), 1, self.num_workers, self.seed, False)

    def test_dataloader(self) -> DataLoader[Any]:
        """Whole images, one at a time."""
        return make_loader(self._dataset("test"), 1, self.num_workers, self.seed, False)

    def _dataset(self, split: str) -> "RasterPairs":
        return RasterPairs(self, self.pairs[split], self.crops_per_image if split == "train" else None)

    def read_image(
        self, path: Path, window: Window | None = None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Read the raw pixels ``(C, h, w)`` of an image and what is valid."""
        with open_raster(path, PLAIN) as dataset:
            bands = check_bands(describe(dataset), len(self.bands), self.band_indexes)
            return read_window(dataset, window or Window(0, 0, dataset.height, dataset.width), bands, self.nodata)

    def read_mask(self, path: Path) -> npt.NDArray[np.int64]:
        """Read class indexes ``(H, W)``; nodata is ``ignore_index``."""
        with open_raster(path, PLAIN, purpose="label") as dataset:
            values = dataset.read()
            known = dataset.dataset_mask() > 0 if dataset.nodata is not None else np.ones(values.shape[1:], bool)
        if self.colors is not None:
            if values.shape[0] < 3:
                raise InputError(f"{path}: {values.shape[0]} band, colors need three")
            mask = np.zeros(values.shape[1:], np.int64)
            for index, color in enumerate(self.colors, start=1):
                mask[(values[:3] == np.asarray(color)[:, None, None]).all(0)] = index
        else:
            mask = values[0].astype(np.int64)
        mask[~known] = self.ignore_index
        wrong = mask[(mask != self.ignore_index) & ((mask < 0) | (mask >= len(self.classes)))]
        if wrong.size:
            raise InputError(
                f"{path}: value {wrong[0]} is no class (0 … {len(self.classes) - 1}) and not ignore_index "
                f"{self.ignore_index}; mend the mask or set ignore_index"
            )
        return mask

    def _match(self) -> dict[str, list[tuple[Path, Path]]]:
        for folder in (self.image_folder, self.mask_folder):
            if not folder.is_dir():
                raise InputError(f"data: no folder {folder}; set data.init_args.root to where images and masks are")
        masks = {path.stem: path for path in _rasters(self.mask_folder)}
        pairs: dict[str, list[tuple[Path, Path]]] = {"train": [], "validation": [], "test": []}
        for image in _rasters(self.image_folder):
            if image.stem not in masks:
                raise InputError(f"{image}: no mask of this name in {self.mask_folder}")
            mask = masks[image.stem]
            with open_raster(image, PLAIN) as a, open_raster(mask, PLAIN, purpose="label") as b:
                if (a.height, a.width) != (b.height, b.width):
                    raise InputError(f"{image}: {a.height} × {a.width} px, its mask has {b.height} × {b.width}")
            pairs[self._split(image.stem)].append((image, mask))
        pairs["test"] = pairs["test"] if self.test is not None else pairs["validation"]
        for split, found in pairs.items():
            if not found:
                raise InputError(f"data: no {split} image: validation {self.validation!r}, test {self.test!r}")
        return pairs

    def _split(self, name: str) -> str:
        if self.test is not None and re.search(self.test, name):
            return "test"
        return "validation" if re.search(self.validation, name) else "train"

    def _measure(self, pairs: list[tuple[Path, Path]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        count, total, squares = 0, np.zeros(len(self.bands)), np.zeros(len(self.bands))
        for image, _ in pairs:
            pixels, valid = self.read_image(image)
            values = pixels[:, valid].astype(np.float64)
            count += values.shape[1]
            total += values.sum(1)
            squares += (values**2).sum(1)
        if not count:
            raise InputError("data: the training images hold no valid pixel")
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 1e-12))
        return tuple(float(m) for m in mean), tuple(float(max(s, 1e-6)) for s in std)


class RasterPairs(Dataset[dict[str, Any]]):
    """Random crops or, with ``crops_per_image`` None, whole images."""

    def __init__(self, data: RasterPairsData, pairs: list[tuple[Path, Path]], crops_per_image: int | None) -> None:
        self.read_image, self.read_mask = data.read_image, data.read_mask
        self.pairs, self.crops_per_image = pairs, crops_per_image
        self.size, self.seed, self.ignore_index = data.image_size, data.seed, data.ignore_index
        self.centred, self.gain = data.centred, data.gain
        self.mean = np.asarray(data.mean, np.float32)[:, None, None]
        self.std = np.asarray(data.std, np.float32)[:, None, None]

    def __len__(self) -> int:
        return len(self.pairs) * (self.crops_per_image or 1)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """Return the sample of ``(epoch, index)``."""
        image_path, mask_path = self.pairs[key[1] % len(self.pairs)]
        pixels, valid = self.read_image(image_path)
        mask = np.where(valid, self.read_mask(mask_path), self.ignore_index)
        if self.crops_per_image is not None:
            pixels, valid, mask = self._augment(sample_rng(self.seed, key), pixels, valid, mask)
        image = np.where(valid, (pixels - self.mean) / self.std, 0).astype(np.float32)
        return {"image": image, "valid": valid[None], "mask": mask, "name": image_path.name}

    def _augment(
        self,
        rng: np.random.Generator,
        image: npt.NDArray[np.float32],
        valid: npt.NDArray[np.bool_],
        mask: npt.NDArray[np.int64],
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
        row, col = self._corner(rng, mask)
        place = (slice(row, row + self.size), slice(col, col + self.size))
        image, valid, mask = image[:, *place], valid[place], mask[place]
        missing = [(0, self.size - length) for length in valid.shape]
        image = np.pad(image, [(0, 0), *missing])
        valid = np.pad(valid, missing)
        mask = np.pad(mask, missing, constant_values=self.ignore_index)
        turns, flip = int(rng.integers(4)), bool(rng.random() < 0.5)
        if self.gain:
            image = image * np.float32(np.exp(rng.normal(0, self.gain)))
        return _turned(image, turns, flip), _turned(valid, turns, flip), _turned(mask, turns, flip)

    def _corner(self, rng: np.random.Generator, mask: npt.NDArray[np.int64]) -> tuple[int, int]:
        last = [max(length - self.size, 0) for length in mask.shape]
        if self.centred and rng.random() < self.centred:
            wanted = np.argwhere((mask != 0) & (mask != self.ignore_index))
            if len(wanted):
                # The pixel may come to lie anywhere in the crop.
                pixel = wanted[rng.integers(len(wanted))] - rng.integers(self.size, size=2)
                row, col = np.clip(pixel, 0, last).tolist()
                return row, col
        row, col = (int(rng.integers(length + 1)) for length in last)
        return row, col


def _turned(array: Any, turns: int, flip: bool) -> Any:
    turned = np.rot90(array, turns, axes=(-2, -1))
    return np.ascontiguousarray(turned[..., ::-1] if flip else turned)


def _check_pattern(key: str, pattern: str | None) -> None:
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise ConfigError(
            f"data.init_args.{key} {pattern!r} is no regular expression ({error}); put \\ before what is meant as such"
        ) from error


def _rasters(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
