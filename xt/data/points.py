"""Detection on one's own images: rasters or scene folders, and a table or layer of points."""

from collections.abc import Sequence
from pathlib import Path

from xt.data.base import DataModule, check_bands
from xt.data.labels import CLASS, LabelTable
from xt.data.point_files import PLACES, read_points
from xt.data.scene_crops import SceneCrops
from xt.data.source import Source
from xt.data.splits import Splits, rasters
from xt.data.statistics import measure
from xt.data.targets import CENTER_SIGMA, UNKNOWN, untold
from xt.errors import ConfigError, InputError, LabelError, at_least


class PointsData(DataModule):
    """Crops of images with point objects, in samples of the same form as those of XView3Data.

    ``ROOT/IMAGES`` holds rasters, or folders with ``BAND.tif`` for each band. ``ROOT/POINTS`` is a CSV, GeoJSON,
    GeoPackage or shapefile of all objects, or a folder with one of these for each image that has some
    (:func:`~xt.data.point_files.read_points`). What is not known of an object is not trained on.

    Args:
        root: Folder that holds both.
        bands: Names of the bands that are read; of scene folders the file names without ``.tif``.
        validation: Regular expression; images whose name it matches validate, the others train.
        test: Likewise for the test images; those of validation by default.
        classes: Of the objects, for :class:`~xt.tasks.objects.ObjectDetection`; none for
            :class:`~xt.tasks.detection.PointDetection`, which tells vessel, fishing and length.
        column: Column that names the class of an object.
        images: Folder of the images under ``root``.
        points: File or folder of the objects under ``root``.
        band_indexes: 1-based bands of a raster; all by default.
        coarse: Bands of scene folders that may be coarser or missing.
        image_size: Side of a crop in pixels.
        mean: Of each band; measured over the valid training pixels if not given.
        std: Likewise.
        nodata: Value of missing pixels, beside what the files say.
        batch_size: Crops of a batch.
        num_workers: Loader processes.
        seed: Of crops and order.
        centred: Share of training crops that hold an object.
        crops_per_scene: Training crops of each image in an epoch.
        gain: Deviation of the logarithm of a factor on the raw values of a training crop, for images whose brightness
            differs; leave it at 0 for dB.
        center_sigma: Pixels by which a centre may be off before it counts as background in training; an eighth of the
            objects' length or so, for in the middle of a long object no pixel looks like the middle.
        flips: Mirror training crops and turn them by quarters, not by 180° alone; eight views of an object instead of
            two, where shadows and the radar's look direction do not matter.
        drop_bad_labels: Leave bad rows out instead of failing.
        resolution: Metres per pixel, if known.
        validation_tile: Side of the tiles in which images are validated and tested; that of a crop by default. An
            object over the edge of two tiles is seen in halves, so larger is truer, and takes more memory.
    """

    gives = "points"

    def __init__(
        self,
        root: str,
        bands: Sequence[str],
        validation: str,
        test: str | None = None,
        classes: Sequence[str] = (),
        column: str = CLASS,
        images: str = "images",
        points: str = "points.csv",
        band_indexes: Sequence[int] | None = None,
        coarse: Sequence[str] = (),
        image_size: int = 512,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        nodata: float | None = None,
        batch_size: int = 4,
        num_workers: int = 0,
        seed: int = 0,
        centred: float = 0.85,
        crops_per_scene: int = 4,
        gain: float = 0.0,
        center_sigma: float = CENTER_SIGMA,
        flips: bool = False,
        drop_bad_labels: bool = False,
        resolution: float | None = None,
        validation_tile: int | None = None,
    ) -> None:
        super().__init__(root, image_size, batch_size, num_workers, seed)
        check_bands(bands, band_indexes)
        at_least(1, "data.init_args", crops_per_scene=crops_per_scene, validation_tile=validation_tile)
        at_least(0, "data.init_args", gain=gain)
        if len(set(classes)) < len(classes):
            raise ConfigError(f"data.init_args.classes is {list(classes)}; give each of them a name of its own")
        if wrong := [each for each in classes if not each or each != each.strip()]:
            raise ConfigError(f"data.init_args.classes holds {wrong[0]!r}; give a name without spaces around it")
        if classes and column in PLACES:
            raise ConfigError(f"data.init_args.column is {column!r}, which says where an object lies; name another")
        if len(classes) > UNKNOWN:
            raise ConfigError(f"data.init_args.classes are {len(classes)}; {UNKNOWN} are possible")
        if not 1 <= center_sigma <= 10:
            raise ConfigError(f"data.init_args.center_sigma is {center_sigma}; it must lie between 1 and 10 pixels")
        if not 0 <= centred <= 1:
            raise ConfigError(f"data.init_args.centred is {centred}; it must lie between 0 and 1")
        if (mean is None) != (std is None):
            raise ConfigError("data: give both mean and std, or neither to have them measured")
        self.bands, self.coarse = tuple(bands), tuple(coarse)
        self.band_indexes = tuple(band_indexes) if band_indexes else None
        self.image_folder, self.points = self.root / images, self.root / points
        self.splits, self.nodata, self.resolution = Splits(validation, test), nodata, resolution
        self.mean, self.std = tuple(mean or ()), tuple(std or ())
        self.classes, self.column = tuple(classes), column
        self.centred, self.crops_per_scene, self.drop_bad_labels = centred, crops_per_scene, drop_bad_labels
        self.validation_tile, self.gain = validation_tile or image_size, gain
        self.center_sigma, self.flips = center_sigma, flips
        self.sources: dict[str, list[Source]] = {}
        self.objects = LabelTable.build(0)

    def dataset(self, split: str) -> SceneCrops:
        """Find images and objects, and measure mean and std if they are not given."""
        if not self.sources:
            images = self._images()
            named = {image.name: image for image in images}
            self.objects = read_points(self.points, named, self.drop_bad_labels, self.classes, self.column, tell=True)
            self.sources = self.splits.share(images, lambda image: image.name)
        self.splits.check(self.sources, split)
        if not self.mean:
            self.splits.check(self.sources, "train")
            self.mean, self.std = measure(self.sources["train"])
        sources = [source.with_statistics(self.mean, self.std) for source in self.sources[split]]
        tables = [self.objects.scene(source.name) for source in sources]
        if split == "train":
            known = LabelTable.concatenate(tables)
            if not len(known):
                raise LabelError(
                    f"{self.points}: no training image has an object; check it and data.init_args.validation"
                )
            self.untold = untold(known)
        size, crops = (self.image_size, self.crops_per_scene) if split == "train" else (self.validation_tile, None)
        options = (self.gain, self.center_sigma, self.flips, self.classes)
        return SceneCrops(sources, tables, size, self.seed, self.centred, crops, *options)

    def _images(self) -> list[Source]:
        folder = self.image_folder
        paths = [*rasters(folder), *sorted(path for path in folder.iterdir() if path.is_dir())]
        names: dict[str, Path] = {}
        for path in paths:
            name = path.name if path.is_dir() else path.stem
            if name in names:
                raise InputError(f"{path}: {names[name].name} has this name too; rename one of them")
            names[name] = path
        return [Source(path, self.inputs, None if path.is_dir() else self.band_indexes) for path in names.values()]
