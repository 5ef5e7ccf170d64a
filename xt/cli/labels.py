"""Labels on the command line: tables, and points on the map, which need the images on which they lie."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xt.data.labels import LabelTable

HELP = "labels: a CSV in the columns of xView3, or scene_id, row, column; with images any that PointsData takes"


def add_column(parser: argparse.ArgumentParser) -> None:
    """Add ``--column``."""
    what = "column that names the class of an object (class)"
    parser.add_argument("--column", default="class", metavar="NAME", help=what)


def add_map(parser: argparse.ArgumentParser) -> None:
    """Add ``--ignore`` and ``--colors``, which say how a raster shows classes."""
    what = "class index in LABELS that is not scored, of a map of classes; nodata never is"
    parser.add_argument("--ignore", type=int, metavar="INDEX", help=what)
    what = "colours in LABELS of all classes of a map but the first, where they are no indexes"
    parser.add_argument("--colors", type=_color, nargs="+", metavar="R,G,B", help=what)


def _color(text: str) -> tuple[int, int, int]:
    try:
        red, green, blue = map(int, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not red, green and blue such as 0,255,0") from None
    return red, green, blue


def read(
    path: Path, images: Sequence[Path] | None, column: str, drop_bad: bool = False, option: str = "--images"
) -> "LabelTable":
    """Read labels.

    Args:
        path: The file; with images as :func:`~xt.data.point_files.read_points`, else as
            :func:`~xt.data.labels.read_labels`.
        images: Rasters on which the objects lie; those of others are left out.
        column: Column that names the class of an object.
        drop_bad: Leave bad rows out instead of failing.
        option: By which the images are given.

    Raises:
        ConfigError: If images are needed.
        InputError: If an image cannot be read.
        LabelError: If the labels cannot be read or are bad.
    """
    from xt.data import vector_files
    from xt.data.labels import read_labels
    from xt.data.point_files import read_points
    from xt.data.source import InputSpec, Source
    from xt.errors import ConfigError

    if not images:
        if path.is_dir() or path.suffix.lower() in vector_files.SUFFIXES:
            raise ConfigError(f"{path}: give {option}, the images on which these points lie")
        return read_labels(path, drop_bad, column)
    one = InputSpec(("band",), (0.0,), (1.0,))
    scenes = {image.stem: Source(image, one, (1,)) for image in images}
    return read_points(path, scenes, drop_bad, None, column)
