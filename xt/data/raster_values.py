"""Rasters with rasters of numbers of the same size, for regression: heights, biomass, an index of another sensor."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xt.data import handles
from xt.data.geotiff import Mask, Pixels, in_unit, open_dataset, read_values
from xt.data.pair_crops import RasterPairs
from xt.data.paired_rasters import PairedRasters
from xt.data.source import InputSpec, Source
from xt.data.statistics import measure
from xt.errors import ConfigError, InputError
from xt.geometry.grid import Window


@dataclass(frozen=True)
class ValueReader:
    """Reads numbers, by scale and offset where a file has them; each band has missing pixels of its own.

    Attributes:
        indexes: 1-based bands.
        nodata: Value of missing pixels, beside what the files say.
        key: Of a sample, under which its values stand.
    """

    indexes: tuple[int, ...]
    nodata: float | None = None
    key: str = "values"

    @property
    def missing(self) -> float:
        """NaN."""
        return float("nan")

    def read(self, path: Path, window: Window | None = None) -> Pixels:
        """Read a window ``(T, h, w)``, which may reach over the border, or all.

        Raises:
            InputError: If the file cannot be read.
        """

        def opener(stack: ExitStack) -> Any:
            return handles.keep(stack, open_dataset(path))

        dataset = handles.borrow(path, "values", opener)
        window = window or Window(0, 0, dataset.height, dataset.width)
        found = np.full((len(self.indexes), window.height, window.width), np.nan, np.float32)
        inside = window.clip(dataset.height, dataset.width)
        if inside.height and inside.width:
            place = inside.within(window).slices
            for target, index in zip(found, self.indexes, strict=True):
                values, valid = read_values(dataset, inside, index, self.nodata)
                np.copyto(target[place], in_unit(dataset, index, values), where=valid, casting="same_kind")
        return found


class _Numbers(Source):
    """One band of numbers, to be measured where their image has data."""

    def __init__(self, path: Path, inputs: InputSpec, index: int, image: Source) -> None:
        super().__init__(path, inputs, (index,))
        self.image = image

    def read_raw(self, window: Window) -> tuple[Pixels, Mask, Mask]:
        pixels, known, valid = super().read_raw(window)
        values = in_unit(self._dataset(self.path), self.indexes[0], pixels)
        return values.astype(np.float32, copy=False), known, valid & self.image.read_raw(window)[2]


class RasterValuesData(PairedRasters):
    """Images and rasters of numbers with equal names in two folders.

    Args:
        root: Folder that holds both.
        targets: Names of the numbers that are known of a pixel: the bands of the second rasters.
        bands: Names of the bands of the images that are read.
        validation: Regular expression; images whose name it matches validate, the others train.
        test: Likewise for the test images; those of validation by default.
        band_indexes: 1-based bands of the images; all by default.
        target_indexes: 1-based bands of the second rasters; the first ones by default.
        images: Folder of the images under ``root``.
        values: Folder of the second rasters under ``root``.
        image_size: Side of a training crop in pixels.
        mean: Of each band; measured over the valid training pixels if not given.
        std: Likewise.
        target_mean: Of each target; measured if not given. The model learns ``(value − mean) / std``.
        target_std: Likewise.
        nodata: Value of missing pixels of images, beside what the files say.
        target_nodata: Value of missing numbers, beside what the files say; NaN is always missing.
        batch_size: Crops of a batch.
        num_workers: Loader processes.
        seed: Of crops and order.
        validation_tile: Validation and test images with a longer side, in pixels, are cut into tiles of this side.
        crops_per_image: Training crops of each image in an epoch.
        gain: Training crops are brightened by ``exp(x)``, x normal with this deviation; the numbers stay.
        resolution: Metres per pixel, if known.
    """

    gives = "values"
    what = "raster of values"
    purpose = "image"

    def __init__(
        self,
        root: str,
        targets: Sequence[str],
        bands: Sequence[str],
        validation: str,
        test: str | None = None,
        band_indexes: Sequence[int] | None = None,
        target_indexes: Sequence[int] | None = None,
        images: str = "images",
        values: str = "values",
        image_size: int = 512,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        target_mean: Sequence[float] | None = None,
        target_std: Sequence[float] | None = None,
        nodata: float | None = None,
        target_nodata: float | None = None,
        batch_size: int = 4,
        num_workers: int = 0,
        seed: int = 0,
        crops_per_image: int = 1,
        gain: float = 0.0,
        resolution: float | None = None,
        validation_tile: int = 2048,
    ) -> None:
        super().__init__(
            root, bands, band_indexes, images, values, validation, test, image_size, mean, std, nodata, batch_size,
            num_workers, seed, crops_per_image, gain, resolution, validation_tile,
        )  # fmt: skip
        self.targets = tuple(targets)
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise ConfigError(f"data.init_args.targets is {list(targets)}; give each of them a name of its own")
        if (target_mean is None) != (target_std is None):
            raise ConfigError("data: give both target_mean and target_std, or neither to have them measured")
        given = {"target_indexes": target_indexes, "target_mean": target_mean, "target_std": target_std}
        for key, each in given.items():
            if each is not None and len(each) != len(self.targets):
                raise ConfigError(f"data.init_args.{key} has {len(each)} numbers for {len(self.targets)} targets")
        if any(each < 1 for each in target_indexes or ()):
            raise ConfigError(f"data.init_args.target_indexes is {list(target_indexes or ())}; the first band is 1")
        if any(not each > 0 for each in target_std or ()):
            raise ConfigError(f"data.init_args.target_std is {list(target_std or ())}; each must be above 0")
        self.target_mean, self.target_std = tuple(target_mean or ()), tuple(target_std or ())
        self.reader = ValueReader(tuple(target_indexes or range(1, len(self.targets) + 1)), target_nodata)

    @property
    def labels(self) -> ValueReader:
        """Reads the numbers."""
        return self.reader

    def dataset(self, split: str) -> RasterPairs:
        """Measure the training numbers too, if their mean and std are not given."""
        found = super().dataset(split)
        if not self.target_mean:
            self.target_mean, self.target_std = self._measured()
        return found

    def check_pair(self, known: Path, dataset: Any) -> None:
        """Refuse a raster with too few bands.

        Raises:
            InputError: If it is one.
        """
        if dataset.count < max(self.reader.indexes):
            raise InputError(
                f"{known}: {dataset.count} bands, the targets are bands {', '.join(map(str, self.reader.indexes))}; "
                "set data.init_args.targets or target_indexes"
            )

    def _measured(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        found = []
        for name, index in zip(self.targets, self.reader.indexes, strict=True):
            spec = InputSpec((name,), (), (), self.reader.nodata)
            try:
                pairs = self.pairs["train"]
                found.append(measure(_Numbers(known, spec, index, self.sources[image]) for image, known in pairs))
            except InputError as error:
                raise InputError(f"target {name}: {error}") from error
        return tuple(mean for (mean,), _ in found), tuple(std for _, (std,) in found)
