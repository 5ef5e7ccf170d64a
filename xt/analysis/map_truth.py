"""What is true of a predicted map: a raster on its grid, or polygons of its classes, perhaps in some areas alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyogrio

from xt.data.georeference import profile_of
from xt.data.geotiff import Mask, class_names, open_raster
from xt.data.masks import Classes, Color, MaskReader, of_colors
from xt.data.polygon_layers import Drawn, Layer, class_numbers
from xt.data.polygons import placed, unreadable
from xt.data.splits import rasters
from xt.data.vector_files import FAULTS, SUFFIXES, only_layer
from xt.errors import ConfigError, InputError
from xt.geometry.grid import Window

MOST_CLASSES = 1 << 16
"""Where a map does not name its classes."""
MAPS = (".tif", ".tiff")
COLUMN = "class"
"""Names the class of a polygon, as ``xt vectorize`` writes it."""


@dataclass(frozen=True)
class TruthOptions:
    """How a file says what is true.

    Attributes:
        ignore: Class index that is not known, beside nodata.
        colors: Red, green and blue of every class but the first, where a raster shows classes in colours.
        column: Of polygons, which holds name or number of the class; if not given ``class``, or of a map of two
            classes whose polygons have none every polygon has the second.
        unclear: Values of ``column`` whose polygons are not known.
        areas: Polygons outside which nothing is known.
        background: Whether the first class is background, which means over classes leave out.
    """

    ignore: int | None = None
    colors: Sequence[Color] | None = None
    column: str | None = None
    unclear: Sequence[str] = ()
    areas: Path | None = None
    background: bool = True

    def check(self, path: Path, truth: Path, numbers: bool) -> None:
        """Refuse what does not go with a map of numbers or classes and the file of what is true of it.

        Raises:
            ConfigError: Names the option.
        """
        polygons = is_layer(truth)
        of_rasters = ("--colors", self.colors)
        of_polygons = ("--column", self.column is not None), ("--unclear", self.unclear)
        own = ("--ignore", self.ignore is not None), ("--no-background", not self.background)
        of_classes = *own, of_rasters, *of_polygons
        for option, given in of_classes if numbers else ():
            if given:
                raise ConfigError(f"{option} is of classes, {path} has numbers; leave it out")
        for option, given in (of_rasters,) if polygons else of_polygons:
            if given:
                raise ConfigError(f"{option} is of {'rasters' if polygons else 'polygons'}, not {truth}; leave it out")


@dataclass(frozen=True)
class Pairs:
    """Maps of a folder, and what is true of each.

    Attributes:
        both: Map and file of what is true.
        maps: Of which nothing is told.
        truths: Of which there is no map.
    """

    both: list[tuple[Path, Path]]
    maps: list[Path]
    truths: list[Path]


def pairs_of(maps: Path, truth: Path) -> Pairs:
    """Match files by their names without suffix.

    Args:
        maps: Folder of GeoTIFFs.
        truth: Folder of rasters or polygons, or one file of polygons for all.

    Raises:
        InputError: If there is no map, none has a partner, or one has two.
    """
    found = [each for each in rasters(maps) if each.suffix.lower() in MAPS]
    if not found:
        raise InputError(f"{maps}: holds no .tif; give a map or a folder of maps")
    if is_layer(truth) and not truth.is_dir():
        return Pairs([(each, truth) for each in found], [], [])
    if not truth.is_dir():
        raise InputError(f"{truth}: {maps} is a folder, so give a folder of what is true, or polygons")
    told: dict[str, Path] = {}
    layers = [each for each in truth.iterdir() if each.name[0] != "." and is_layer(each)]
    for each in sorted((*rasters(truth), *layers)):
        if each.stem in told:
            raise InputError(f"{each}: {told[each.stem].name} is for the same map; leave one of them")
        told[each.stem] = each
    pairs = [(each, told[each.stem]) for each in found if each.stem in told]
    if not pairs:
        raise InputError(f"{truth}: no file is named as a map of {maps}, such as {found[0].stem}; rename them")
    names = {each.stem for each, _ in pairs}
    left = [each for stem, each in told.items() if stem not in names]
    return Pairs(pairs, [each for each in found if each.stem not in names], left)


@dataclass(frozen=True)
class Grid:
    """Grid of a map, on which polygons lie.

    Attributes:
        path: The map.
        facts: As :func:`~xt.data.georeference.profile_of` gives them.
    """

    path: Path
    facts: dict[str, Any]

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.facts["height"])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.facts["width"])

    def profile(self) -> dict[str, Any]:
        """The facts."""
        return self.facts


def is_layer(path: Path) -> bool:
    """Whether a file holds polygons, by its name."""
    return path.suffix.lower() in SUFFIXES


class Areas:
    """Where something is known of a map.

    Args:
        grid: Of the map.
        path: Polygons; everywhere if None.

    Raises:
        InputError: If they cannot be read or placed.
    """

    def __init__(self, grid: Grid, path: Path | None) -> None:
        self.drawn = None
        if path is not None:
            _check(grid, path)
            self.drawn = Layer(path).over(grid)

    def inside(self, window: Window, shape: tuple[int, int] | None = None) -> Mask | np.bool_:
        """Pixels ``(h, w)`` of a window that lie inside; of other size if told."""
        return np.True_ if self.drawn is None else self.drawn.burn(window, shape) > 0


class ClassTruth:
    """Classes that are true of the pixels of a map.

    Args:
        path: The map.
        found: It, opened.
        truth: Raster of class indexes or colours on the grid of the map, or polygons.
        options: How it is to be read.

    Raises:
        ConfigError: If there are not as many colours as classes.
        InputError: If it cannot be read or placed, or a polygon has no class of the map.
    """

    def __init__(self, path: Path, found: Any, truth: Path, options: TruthOptions) -> None:
        self.names, self.path, self.options = class_names(found), truth, options
        grid = Grid(path, profile_of(found))
        self.whole = Window(0, 0, grid.height, grid.width)
        self.areas = Areas(grid, options.areas)
        many = max(self.names, default=MOST_CLASSES - 1) + 1
        if options.colors and self.names and len(options.colors) + 1 != many:
            raise ConfigError(
                f"--colors has {len(options.colors)}, {path} has {many} classes; give one for each but the first"
            )
        self.unknown = -1 if options.ignore is None else options.ignore
        self.unclear = many
        self.drawn: Drawn | None = None
        if is_layer(truth):
            _check(grid, truth)
            numbers, column = _classes(truth, self.names, many, options)
            self.drawn = Layer(truth, numbers, column, option="--").over(grid)
        self.reader = MaskReader(many, self.unknown, options.colors, option="--ignore")

    def read(self, window: Window) -> tuple[Classes, Mask]:
        """Classes of the pixels ``(h, w)`` of a window, and where they are known."""
        if self.drawn is None:
            true = self.reader.read(self.path, window)
        else:
            true = self.drawn.burn(window).astype(np.int64)
        return true, self._known(true, window)

    def thumbnail(self, shape: tuple[int, int]) -> Any:
        """All of them at a smaller size, masked; one pixel stands for those around it."""
        colors = self.options.colors
        if self.drawn is not None:
            true: Any = self.drawn.burn(self.whole, shape)
        else:
            with open_raster(self.path, purpose="label") as dataset:
                values = dataset.read([1, 2, 3] if colors else [1], out_shape=(3 if colors else 1, *shape), masked=True)
            true = of_colors(values.data, colors) if colors else values[0]
        return np.ma.masked_where(~self._known(np.ma.getdata(true), self.whole, shape), true)

    def _known(self, true: npt.NDArray[Any], window: Window, shape: tuple[int, int] | None = None) -> Mask:
        known = true != self.unknown
        if self.drawn is not None:
            known &= true != self.unclear
        return np.asarray(known & self.areas.inside(window, shape), bool)


def _check(grid: Grid, path: Path) -> None:
    if not path.exists():
        raise InputError(f"{path}: no such file; check its name")
    placed(grid, path)


def _classes(
    truth: Path, names: dict[int, str], many: int, options: TruthOptions
) -> tuple[dict[str, int] | None, str | None]:
    """Number of the class by the value of a column, and the column; None for both where all have class 1."""
    column = options.column or _column(truth, names)
    if column is None:
        return None, None
    return class_numbers(names, many) | dict.fromkeys(options.unclear, many), column


def _column(truth: Path, names: dict[int, str]) -> str | None:
    """The column that holds classes if none is said."""
    try:
        fields = [str(each) for each in pyogrio.read_info(truth, only_layer(truth))["fields"]]
    except FAULTS as error:
        raise unreadable(truth, error) from error
    if COLUMN in fields or len(names) != 2:
        return COLUMN
    return None
