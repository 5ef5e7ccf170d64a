"""Cut a raster of red, green, blue and near infrared into pairs for regression: colours, and NDVI, which they lack.

    python scripts/ndvi_pairs.py naip.tif DIR

Writes ``DIR/images/ROW_COLUMN.tif`` and ``DIR/values/ROW_COLUMN.tif``, three rows of five tiles; and prints how well a
linear function of the three colours, fitted to the first three columns, tells NDVI in the last one.
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.windows import Window

ROWS, COLUMNS, TRAINED = 3, 5, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raster", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    known: dict[bool, list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]] = {True: [], False: []}
    with rasterio.open(args.raster) as source:
        height, width = source.height // ROWS, source.width // COLUMNS
        for row in range(ROWS):
            for column in range(COLUMNS):
                window = Window(column * width, row * height, width, height)
                pixels = source.read(window=window).astype(np.float32)
                red, near = pixels[0], pixels[3]
                ndvi = (near - red) / np.maximum(near + red, 1)
                place = {"transform": source.window_transform(window), "crs": source.crs}
                write(args.folder / f"images/{row}_{column}.tif", pixels[:3].astype(source.dtypes[0]), place)
                write(args.folder / f"values/{row}_{column}.tif", ndvi[None], place)
                if column < TRAINED or column == COLUMNS - 1:
                    colours = np.concatenate([pixels[:3], np.ones_like(pixels[:1])]).reshape(4, -1).T
                    known[column < TRAINED].append((colours.astype(np.float64), ndvi.reshape(-1).astype(np.float64)))
    (colours, ndvi), (others, wanted) = (
        (np.concatenate(x), np.concatenate(y)) for x, y in (zip(*known[each], strict=True) for each in (True, False))
    )
    error = others @ np.linalg.lstsq(colours, ndvi, rcond=None)[0] - wanted
    print(f"linear in the colours, held out: R² {1 - np.square(error).mean() / wanted.var():.3f}")


def write(path: Path, pixels: npt.NDArray[np.generic], place: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    shape = {"count": count, "height": height, "width": width, "dtype": pixels.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", compress="deflate", **shape, **place) as out:
        out.write(pixels)


if __name__ == "__main__":
    main()
