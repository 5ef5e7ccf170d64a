"""Rasters with label rasters of the same size, for semantic segmentation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.enums import ColorInterp

from xt.data.masks import MaskReader, check_classes, windows
from xt.data.pair_crops import RasterPairs
from xt.data.paired_rasters import PairedRasters
from xt.errors import ConfigError, InputError
from xt.geometry.grid import Window

IGNORE = 255


class RasterPairsData(PairedRasters):
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
    what = "mask"

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
        super().__init__(
            root, bands, band_indexes, images, masks, validation, test, image_size, mean, std, nodata, batch_size,
            num_workers, seed, crops_per_image, gain, resolution, validation_tile,
        )  # fmt: skip
        check_classes(classes, ignore_index, centred)
        if colors is not None and len(set(map(tuple, colors))) < len(colors):
            raise ConfigError("data.init_args.colors holds one twice; give each class a colour of its own")
        if colors is not None and len(colors) != len(classes) - 1:
            raise ConfigError(f"data: {len(classes)} classes need {len(classes) - 1} colors, got {len(colors)}")
        self.classes, self.ignore_index, self.centred = tuple(classes), ignore_index, centred
        self.masks = MaskReader(len(self.classes), ignore_index, colors)

    @property
    def labels(self) -> MaskReader:
        """Reads masks."""
        return self.masks

    def check_pair(self, known: Path, dataset: Any) -> None:
        """Refuse a picture in colours as a mask of class indexes.

        Raises:
            InputError: If it is one.
        """
        bands = sum(each != ColorInterp.alpha for each in dataset.colorinterp)
        if self.masks.colors is None and bands > 1:
            raise InputError(
                f"{known}: {bands} bands, a mask of class indexes has one; give data.init_args.colors, or save one band"
            )

    def dataset(self, split: str) -> RasterPairs:
        """Match the rasters, and look whether the training masks hold more than one class.

        Raises:
            InputError: If not: nothing could be learnt.
        """
        found = super().dataset(split)
        if split == "train" and len(self.classes) > 1:
            self._check_classes()
        return found

    def _check_classes(self) -> None:
        seen: set[int] = set()
        for image, known in self.pairs["train"]:
            for window in windows(self.sources[image].height, self.sources[image].width):
                seen |= set(np.unique(self.read_mask(known, window)).tolist()) - {self.ignore_index}
                if len(seen) > 1:
                    return
        what = f"class {self.classes[seen.pop()]!r} alone" if seen else "no class"
        reason = "no pixel has a colour of data.init_args.colors"
        if self.masks.colors is None:
            last = len(self.classes) - 1
            reason = (
                f"pixels of {self.ignore_index} (data.init_args.ignore_index) and of the file's nodata are not known; "
                f"number the classes 0 to {last}, and take the nodata tag away where it is a class"
            )
        raise InputError(f"{self.known_folder}: the training masks hold {what}: {reason}")

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
