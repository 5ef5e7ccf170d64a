"""Rasters with label rasters of the same size, for semantic segmentation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xt.data.base import DataModule
from xt.data.geotiff import PLAIN, open_raster
from xt.data.masks import MaskReader
from xt.data.pair_crops import RasterPairs
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

    def dataset(self, split: str) -> RasterPairs:
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
