"""Labels on the command line: tables, and points on the map, which need the images on which they lie."""

import argparse
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xt.analysis.map_truth import TruthOptions
    from xt.data.labels import LabelTable

ON_IMAGES = {"x", "xmin", "image_path"}
"""Columns of a CSV whose objects lie on the map, or are boxes: they need the images."""
HELP = "labels: a CSV in the columns of xView3, or scene_id, row, column; with images any that PointsData takes"


def add_column(parser: argparse.ArgumentParser) -> None:
    """Add ``--column``."""
    what = "column that names the class of an object or polygon (class)"
    parser.add_argument("--column", metavar="NAME", help=what)


def add_map(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is known of a map."""
    what = "class index in LABELS that is not scored, of a map of classes; nodata never is"
    parser.add_argument("--ignore", type=int, metavar="INDEX", help=what)
    what = "colours in LABELS of all classes of a map but the first, where they are no indexes"
    parser.add_argument("--colors", type=_color, nargs="+", metavar="R,G,B", help=what)
    what = "values of --column whose polygons in LABELS are not scored"
    parser.add_argument("--unclear", nargs="+", default=[], metavar="VALUE", help=what)
    what = "polygons (GeoPackage, GeoJSON, shapefile) outside which a map is not scored"
    parser.add_argument("--areas", type=Path, metavar="FILE", help=what)
    what = "the first class of a map counts in the means iou and f1, too"
    parser.add_argument("--no-background", dest="background", action="store_false", help=what)


def map_options(args: argparse.Namespace) -> "TruthOptions":
    """What :func:`add_map` and :func:`add_column` have read of a map."""
    from xt.analysis.map_truth import TruthOptions

    return TruthOptions(args.ignore, args.colors, args.column, args.unclear, args.areas, args.background)


def refuse_map_options(args: argparse.Namespace, why: str) -> None:
    """Refuse those of :func:`add_map` where there is no map.

    Raises:
        ConfigError: Names the option, and why it is refused.
    """
    from xt.errors import ConfigError

    for name in ("ignore", "colors", "unclear", "areas"):
        if getattr(args, name) not in (None, []):
            raise ConfigError(f"--{name} is of {why}, so leave it out")
    if not args.background:
        raise ConfigError(f"--no-background is of {why}, so leave it out")


def _color(text: str) -> tuple[int, int, int]:
    try:
        red, green, blue = map(int, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not red, green and blue such as 0,255,0") from None
    return red, green, blue


def by_name(images: Iterable[tuple[str, Path]], option: str = "--images") -> dict[str, Path]:
    """Raster of each scene.

    Args:
        images: Name and raster; one may stand twice.
        option: By which they are given.

    Raises:
        ConfigError: If two have one name.
    """
    from xt.errors import ConfigError

    made: dict[str, Path] = {}
    for name, image in images:
        other = made.setdefault(name, image)
        if other != image:
            raise ConfigError(f"{option}: {other} and {image} have the same name; give one at a time")
    return made


def name_pixels(path: Path) -> bool:
    """Whether a CSV names scene, row and column of each object, so that it can be read without images."""
    from xt.data.rows import read_csv

    if path.is_dir() or path.suffix.lower() != ".csv":
        return False
    header = set(read_csv(path)[0])
    pairs = {"row", "column"}, {"detect_scene_row", "detect_scene_column"}
    return "scene_id" in header and any(pair <= header for pair in pairs)


def tell_without_class(truth: "LabelTable", column: str | None, what: str) -> None:
    """Tell on standard error how many labels have no class, and what becomes of them."""
    from xt.data.labels import CLASS

    if unknown := int((truth.label == "").sum()):
        print(f"{unknown} of {len(truth)} labels have no {column or CLASS} and {what}", file=sys.stderr)


def read(
    path: Path, images: Mapping[str, Path] | None, column: str | None, drop_bad: bool = False, option: str = "--images"
) -> "LabelTable":
    """Read labels.

    Args:
        path: The file; with images as :func:`~xt.data.point_files.read_points`, else as
            :func:`~xt.data.labels.read_labels`.
        images: Rasters on which the objects lie, by name; those of others are left out.
        column: Column that names the class of an object; ``class`` if None.
        drop_bad: Leave bad rows out instead of failing.
        option: By which the images are given.

    Raises:
        ConfigError: If images are needed.
        InputError: If an image cannot be read.
        LabelError: If the labels cannot be read or are bad.
    """
    from xt.data import vector_files
    from xt.data.labels import CLASS, read_labels
    from xt.data.point_files import read_points
    from xt.data.rows import read_csv
    from xt.data.source import InputSpec, Source
    from xt.errors import ConfigError

    column = column or CLASS
    if not images:
        on_images = path.is_dir() or path.suffix.lower() in vector_files.SUFFIXES
        if on_images or (path.is_file() and ON_IMAGES & set(read_csv(path)[0]) and not name_pixels(path)):
            raise ConfigError(f"{path}: give {option}, the images on which these points lie")
        return read_labels(path, drop_bad, column)
    one = InputSpec(("band",), (0.0,), (1.0,))
    scenes = {name: Source(image, one, (1,)) for name, image in images.items()}
    return read_points(path, scenes, drop_bad, None, column)
