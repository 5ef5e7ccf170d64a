"""Points of one's own masks: a folder as PointsData reads it, with a point at the middle of every object of a mask.

    python scripts/ship_points.py DIR OUT

DIR holds images/ and masks/ of the same names, as configs/segmentation_ships.yaml reads them. OUT gets images/ (links)
and points.csv: scene_id, row and column of the centroids of the masks' 8-connected components, and is_vessel, for the
masks say that these are ships; whether one fishes and its length in metres they do not say.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from xt.data.masks import MaskReader
from xt.data.splits import rasters
from xt.errors import InputError, OutputError, XTError
from xt.files import replacing

SHIP = (0, 255, 0)


def centroids(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Rows and columns ``(N, 2)`` of the middles of the 8-connected components; pixel centres are whole numbers."""
    labelled, num = ndimage.label(mask, structure=np.ones((3, 3), int))
    return np.reshape(ndimage.center_of_mass(mask, labelled, range(1, num + 1)), (num, 2))


def make(source: Path, out: Path, color: tuple[int, int, int] = SHIP) -> int:
    """Write ``out``; return how many points it has.

    Raises:
        InputError: If a folder or a mask is missing.
        OutputError: If a file of ``out`` is another than that of ``source``.
    """
    for folder in ("images", "masks"):
        if not (source / folder).is_dir():
            raise InputError(f"no folder {source / folder}; DIR must hold images/ and masks/")
    masks = {path.stem: path for path in rasters(source / "masks")}
    reader, rows = MaskReader(2, 255, [color]), []
    (out / "images").mkdir(parents=True, exist_ok=True)
    for image in rasters(source / "images"):
        if image.stem not in masks:
            raise InputError(f"{image}: no mask of this name in {source / 'masks'}")
        link = out / "images" / image.name
        if not link.exists():
            link.symlink_to(image.resolve())
        elif not link.samefile(image):
            raise OutputError(f"{link}: is not {image}; give a new folder")
        points = centroids(reader.read(masks[image.stem]) == 1)
        rows += [[image.stem, f"{row:.2f}", f"{col:.2f}", True] for row, col in points]
    with replacing(out / "points.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["scene_id", "row", "column", "is_vessel"], *rows])
    return len(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="DIR", type=Path)
    parser.add_argument("out", metavar="OUT", type=Path)
    parser.add_argument("--color", type=int, nargs=3, default=SHIP, help="of the objects in the masks")
    args = parser.parse_args()
    try:
        print(f"{make(args.source, args.out, tuple(args.color))} points in {args.out / 'points.csv'}")
    except XTError as error:
        print(f"ship_points: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
