"""Polygons over many images: drawn as classes, and looked up."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyogrio
import rasterio
import shapely
from rasterio.features import rasterize

from xt.data.polygons import OnMap, read_polygons, touching, unreadable
from xt.data.vector_files import FAULTS, SUFFIXES, as_text, by_image, only_layer
from xt.errors import InputError
from xt.geometry.grid import Window

KEPT = 64
"""Images whose polygons are kept in memory."""


@dataclass(frozen=True)
class Drawn:
    """Polygons over one image, in its pixels.

    Attributes:
        shapes: The polygons.
        values: Number of the class of each; the larger one counts where two overlap.
        tree: Finds them.
    """

    shapes: npt.NDArray[np.object_]
    values: npt.NDArray[np.int64]
    tree: shapely.STRtree

    def burn(self, window: Window, shape: tuple[int, int] | None = None) -> npt.NDArray[np.int32]:
        """Values of the pixels ``(h, w)`` of a window whose centre lies in a polygon, and 0; of other size if told."""
        near = touching(self.tree, window)
        near = near[np.argsort(self.values[near], kind="stable")]
        shape = shape or (window.height, window.width)
        if not len(near):
            return np.zeros(shape, np.int32)
        moved = rasterio.Affine(window.width / shape[1], 0, window.col, 0, window.height / shape[0], window.row)
        pairs = zip(self.shapes[near], self.values[near].tolist(), strict=True)
        return np.asarray(rasterize(pairs, shape, transform=moved, dtype="int32"))


class Layer:
    """Polygons of one file, or of a file ``IMAGE.gpkg``, ``.geojson`` or ``.shp`` for each image that has some.

    Args:
        path: The file or folder.
        numbers: Value of the column → number of the class; None for 1 of every polygon.
        column: The column that names the class.
        option: What stands before ``root``, ``column`` and ``unclear`` where they are set.

    Raises:
        InputError: If there is no file, it cannot be read, or a polygon has another class; names it.
    """

    def __init__(
        self,
        path: Path,
        numbers: Mapping[str, int] | None = None,
        column: str | None = None,
        option: str = "data.init_args.",
    ) -> None:
        self.path, self.numbers, self.column, self.option = path, numbers, column, option
        self.kept: OrderedDict[Path, Drawn] = OrderedDict()
        self.files = by_image(path, SUFFIXES) if path.is_dir() else None
        files = [path] if self.files is None else list(self.files.values())
        if not path.exists() or not files:
            what = "file of polygons such as IMAGE.gpkg" if path.is_dir() else "such file or folder"
            raise InputError(f"{path}: no {what}; set {option}root to the folder that holds it")
        for each in files if column else []:
            self._check(each)

    def over(self, source: OnMap) -> Drawn:
        """The polygons over an image.

        Raises:
            InputError: If they cannot be read or placed.
        """
        if source.path not in self.kept:
            self.kept[source.path] = self._drawn(source)
            while len(self.kept) > KEPT:
                self.kept.popitem(last=False)
        self.kept.move_to_end(source.path)
        return self.kept[source.path]

    def _drawn(self, source: OnMap) -> Drawn:
        file = self.path if self.files is None else self.files.get(source.path.stem)
        none = np.zeros(0, object)
        shapes, told = (none, none) if file is None else read_polygons(file, source, self.column, near=True)
        numbers = [1 if self.numbers is None else self.numbers[as_text(each)] for each in told]
        image = shapely.box(0, 0, source.width, source.height)
        inside = (shapely.intersects(shapes, image) & ~shapely.touches(shapes, image)).astype(bool)
        shapes = shapes[inside]
        return Drawn(shapes, np.array(numbers, np.int64)[inside], shapely.STRtree(shapes))

    def _check(self, file: Path) -> None:
        """Look at the classes of all polygons before a step is taken."""
        try:
            layer = only_layer(file)
            info = pyogrio.read_info(file, layer, force_feature_count=True)
            meta, _, _, values = pyogrio.raw.read(file, layer, columns=[self.column], read_geometry=False)
        except FAULTS as error:
            raise unreadable(file, error) from error
        assert self.numbers is not None
        if not info["features"]:
            return  # GeoJSON names no columns then
        if not len(meta["fields"]):
            columns = ", ".join(map(str, info["fields"])) or "none"
            raise InputError(f"{file}: no column {self.column!r}; set {self.option}column to one of: {columns}")
        wrong = {as_text(each): index for index, each in reversed(list(enumerate(values[0])))}
        names = ", ".join(name for name, number in self.numbers.items() if name != str(number)) or "a number"
        for name, index in wrong.items():
            if name not in self.numbers:
                where = "unclear" if self.option == "--" else "classes or unclear"
                value = repr(name) if name else "empty"
                raise InputError(
                    f"{file}: polygon {index + 1} has {self.column} {value}, which is no class ({names}); "
                    f"mend it, or name it in {self.option}{where}"
                )


def class_numbers(names: Mapping[int, str], number: int) -> dict[str, int]:
    """Number of a class by what a column may hold: its name, or the number itself where no name is one.

    Args:
        names: Of classes, by their numbers.
        number: Of classes; some may have no name.
    """
    named = {name: index for index, name in names.items()}
    if any(name.isdigit() for name in named):
        return named
    return {str(index): index for index in range(number)} | named
