"""Images with polygons of classes, for semantic segmentation: what a label tool or a map saves, without a raster."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely

from xt.data.masks import Classes, check_classes
from xt.data.paired_rasters import PairedRasters
from xt.data.polygon_layers import Layer, class_numbers
from xt.data.polygons import placed, touching
from xt.data.raster_pairs import IGNORE
from xt.data.source import Source
from xt.data.vector_files import warn_of_strays
from xt.errors import ConfigError, InputError, XTWarning
from xt.geometry.grid import Window

TRIES = 1000
"""Pixels that are drawn to find one inside an area."""


@dataclass(frozen=True)
class PolygonReader:
    """Draws classes from polygons.

    Attributes:
        sources: The images by their paths.
        layer: Polygons of classes, numbered from 1; those with the number of all classes are not known.
        num_classes: Classes.
        areas: Polygons outside which nothing is known; None where everything is.
        ignore_index: Value of what is not known.
        key: Of a sample, under which its classes stand.
    """

    sources: Mapping[Path, Source]
    layer: Layer
    num_classes: int
    areas: Layer | None
    ignore_index: int
    key: str = "mask"

    @property
    def missing(self) -> int:
        """Class of what is not known."""
        return self.ignore_index

    def read(self, path: Path, window: Window | None = None) -> Classes:
        """Draw a window of an image, which may reach over the border, or all of it.

        Raises:
            InputError: If the polygons cannot be read or placed.
        """
        source = self.sources[path]
        window = window or Window(0, 0, source.height, source.width)
        mask = np.full((window.height, window.width), self.ignore_index, np.int64)
        inside = window.clip(source.height, source.width)
        if inside.height and inside.width:
            drawn = self.layer.over(source).burn(inside).astype(np.int64)
            drawn[drawn == self.num_classes] = self.ignore_index
            if self.areas is not None:
                drawn[self.areas.over(source).burn(inside) == 0] = self.ignore_index
            mask[inside.within(window).slices] = drawn
        return mask

    def tells(self, path: Path, window: Window) -> bool:
        """Whether something may be known of a window."""
        return self.areas is None or len(touching(self.areas.over(self.sources[path]).tree, window)) > 0

    def somewhere(self, path: Path, rng: np.random.Generator) -> tuple[int, int] | None:
        """A pixel that lies in an area, each as likely; None if all do."""
        if self.areas is None:
            return None
        source, drawn = self.sources[path], self.areas.over(self.sources[path])
        left, top, right, bottom = shapely.total_bounds(drawn.shapes)
        low = np.maximum(np.floor([top, left]), 0)
        high = np.minimum(np.ceil([bottom, right]), [source.height, source.width])
        for _ in range(TRIES):
            row, col = rng.integers(low, np.maximum(high, low + 1)).tolist()
            if len(drawn.tree.query(shapely.Point(col + 0.5, row + 0.5), "intersects")):
                break
        return row, col


class PolygonsData(PairedRasters):
    """Images, and polygons of classes that lie on them: one file for all, or one for each image.

    A pixel has the class of the polygon in which its centre lies, and the first class where it lies in none. Where
    polygons overlap the class that stands later in ``classes`` counts.

    Args:
        root: Folder that holds images and polygons.
        classes: Names; the first is everything outside the polygons.
        bands: Names of the bands that are read.
        polygons: GeoPackage, GeoJSON, FlatGeobuf or shapefile under ``root``, or a folder with one for each image that
            has some.
        column: Column that holds the class of a polygon, its name or its number; of two classes it may be left out,
            and every polygon has the second.
        areas: File of polygons inside which the labels are complete, or a folder like that of ``polygons``. Nothing is
            known of the rest: training crops hold a pixel of an area, and images without any are left out.
        unclear: Values of ``column`` whose polygons are not known and go before all others.
        band_indexes: 1-based bands of the file; all by default.
        images: Folder of the images under ``root``.
        validation: Regular expression; images whose name it matches validate, the others train.
        test: Likewise for the test images; those of validation by default.
        image_size: Side of a training crop in pixels.
        mean: Of each band; measured over the valid training pixels if not given.
        std: Likewise.
        ignore_index: Value of what is not known, in samples.
        nodata: Value of missing pixels, beside what the files say.
        batch_size: Crops of a batch.
        num_workers: Loader processes.
        seed: Of crops and order.
        validation_tile: Validation and test images with a longer side, in pixels, are cut into tiles of this side.
        crops_per_image: Training crops of each image in an epoch.
        centred: Share of training crops that hold a pixel which is not of the first class, where an image has one.
        gain: Training crops are brightened by ``exp(x)``, x normal with this deviation.
        resolution: Metres per pixel, if known.

    Raises:
        ConfigError: If options do not fit together; names the key.
    """

    gives = "mask"
    what = "polygon"

    def __init__(
        self,
        root: str,
        classes: Sequence[str],
        bands: Sequence[str],
        validation: str,
        polygons: str = "polygons.gpkg",
        column: str | None = None,
        areas: str | None = None,
        unclear: Sequence[str] = (),
        test: str | None = None,
        band_indexes: Sequence[int] | None = None,
        images: str = "images",
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
            root, bands, band_indexes, images, polygons, validation, test, image_size, mean, std, nodata, batch_size,
            num_workers, seed, crops_per_image, gain, resolution, validation_tile,
        )  # fmt: skip
        check_classes(classes, ignore_index, centred)
        if column is None and (len(classes) != 2 or unclear):
            raise ConfigError(
                f"data.init_args.column is missing; {len(classes)} classes need the column that tells them apart"
            )
        if double := set(unclear) & set(classes):
            raise ConfigError(f"data.init_args.unclear holds {min(double)!r}, which is a class; leave it out of one")
        self.classes, self.ignore_index, self.centred = tuple(classes), ignore_index, centred
        self.column, self.unclear = column, tuple(unclear)
        self.area_path = None if areas is None else self.root / areas
        self.reader: PolygonReader | None = None

    @property
    def labels(self) -> PolygonReader:
        """Draws masks."""
        assert self.reader is not None  # after the images are matched
        return self.reader

    def match(self, images: Sequence[Path]) -> list[Path | None]:
        """Find the polygons; an image stands for those over it.

        Raises:
            InputError: If a file cannot be read or placed, or no polygon lies on any image.
        """
        names = class_numbers(dict(enumerate(self.classes)), len(self.classes))
        names |= dict.fromkeys(self.unclear, len(self.classes))
        layer = Layer(self.known_folder, names if self.column else None, self.column)
        areas = None if self.area_path is None else Layer(self.area_path)
        self.reader = PolygonReader(self.sources, layer, len(self.classes), areas, self.ignore_index)
        for each, what in ((layer, "polygons"), (areas, "areas")):
            if each is not None and each.files is not None:
                warn_of_strays(each.path, each.files, {source.path.stem for source in self.sources.values()}, what)
        for source in self.sources.values():
            placed(source, self.known_folder)
        if not any(len(layer.over(source).shapes) for source in self.sources.values()):
            raise self._nowhere(layer)
        if areas is None:
            return list(images)
        told = [image if len(areas.over(self.sources[image]).shapes) else None for image in images]
        left = told.count(None)
        if left == len(told):
            raise self._nowhere(areas)
        if left:
            text = f"{self.area_path}: {left} of {len(told)} images lie in no area and are left out"
            warnings.warn(text, XTWarning, stacklevel=2)
        return told

    def _nowhere(self, layer: Layer) -> InputError:
        look = "CRS" if layer.files is None else "CRS, and that files are named as images are"
        return InputError(f"{layer.path}: no polygon lies on an image of {self.image_folder}; check its {look}")
