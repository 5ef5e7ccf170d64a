"""Images, and rasters of what is known of their pixels: matched by name, compared in size, measured, cut into crops."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from xt.data.base import DataModule, check_bands
from xt.data.georeference import check_same_grid, profile_of
from xt.data.geotiff import Purpose, open_raster
from xt.data.pair_crops import PixelLabels, RasterPairs
from xt.data.source import Source
from xt.data.splits import Splits, rasters
from xt.data.statistics import measure
from xt.errors import ConfigError, InputError, at_least


class PairedRasters(DataModule):
    """Images and rasters with equal names in two folders. Subclasses say what the second ones hold.

    Args:
        root: Folder that holds both.
        bands: Names of the bands that are read.
        band_indexes: 1-based bands of the file; all by default.
        images: Folder of the images under ``root``.
        known: Folder of the other rasters under ``root``.
        validation: Regular expression; images whose name it matches validate, the others train.
        test: Likewise for the test images; those of validation by default.
        image_size: Side of a training crop in pixels.
        mean: Of each band; measured over the valid training pixels if not given.
        std: Likewise.
        nodata: Value of missing pixels, beside what the files say.
        batch_size: Crops of a batch.
        num_workers: Loader processes.
        seed: Of crops and order.
        crops_per_image: Training crops of each image in an epoch.
        gain: Training crops are brightened by ``exp(x)``, x normal with this deviation.
        resolution: Metres per pixel, if known.
        validation_tile: Validation and test images with a longer side, in pixels, are cut into tiles of this side.
    """

    what: ClassVar[str]
    """What one of the other rasters is called in messages."""
    purpose: ClassVar[Purpose] = "label"
    centred: float = 0.0

    def __init__(
        self,
        root: str,
        bands: Sequence[str],
        band_indexes: Sequence[int] | None,
        images: str,
        known: str,
        validation: str,
        test: str | None,
        image_size: int,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        nodata: float | None,
        batch_size: int,
        num_workers: int,
        seed: int,
        crops_per_image: int,
        gain: float,
        resolution: float | None,
        validation_tile: int,
    ) -> None:
        super().__init__(root, image_size, batch_size, num_workers, seed)
        check_bands(bands, band_indexes)
        if (mean is None) != (std is None):
            raise ConfigError("data: give both mean and std, or neither to have them measured")
        at_least(1, "data.init_args", crops_per_image=crops_per_image, validation_tile=validation_tile)
        at_least(0, "data.init_args", gain=gain)
        self.bands, self.nodata, self.resolution = tuple(bands), nodata, resolution
        self.band_indexes = tuple(band_indexes) if band_indexes else None
        self.image_folder, self.known_folder = self.root / images, self.root / known
        self.crops_per_image, self.gain, self.validation_tile = crops_per_image, gain, validation_tile
        self.mean, self.std = tuple(mean or ()), tuple(std or ())
        self.splits = Splits(validation, test)
        self.pairs: dict[str, list[tuple[Path, Path]]] = {}
        self.sources: dict[Path, Source] = {}

    @property
    @abstractmethod
    def labels(self) -> PixelLabels:
        """Reads the other rasters."""

    def dataset(self, split: str) -> RasterPairs:
        """Match the rasters, compare their grids, and measure mean and std if they are not given."""
        if not self.pairs:
            self.pairs = self._match()
        self.splits.check(self.pairs, split)
        if not self.mean:
            self.splits.check(self.pairs, "train")
            self.mean, self.std = measure(self.sources[image] for image, _ in self.pairs["train"])
        pairs = [
            (self.sources[image].with_statistics(self.mean, self.std), known) for image, known in self.pairs[split]
        ]
        return RasterPairs(self, pairs, self.crops_per_image if split == "train" else None)

    def check_pair(self, known: Path, dataset: Any) -> None:
        """Refuse a raster whose bands cannot be what they are to be.

        Args:
            known: Its file.
            dataset: The same, open.

        Raises:
            InputError: If it is refused.
        """

    def _match(self) -> dict[str, list[tuple[Path, Path]]]:
        images = rasters(self.image_folder)
        self.sources = {image: Source(image, self.inputs, self.band_indexes) for image in images}
        pairs = zip(images, self.match(images), strict=True)
        found = [(image, known) for image, known in pairs if known is not None]
        return self.splits.share(found, lambda pair: pair[0].stem)

    def match(self, images: Sequence[Path]) -> Sequence[Path | None]:
        """Find what is known of each image: a raster of its name, on its grid; None where nothing is.

        Raises:
            InputError: If one is missing or does not fit.
        """
        others = {path.stem: path for path in rasters(self.known_folder)}
        found = []
        for image in images:
            if image.stem not in others:
                raise InputError(f"{image}: no {self.what} of this name in {self.known_folder}")
            known, source = others[image.stem], self.sources[image]
            with open_raster(known, purpose=self.purpose) as b:
                check_same_grid(known, profile_of(b), image, source.profile())
                self.check_pair(known, b)
            found.append(known)
        return found
