"""Label rasters: windows of class indexes, and where the foreground lies without keeping the mask in memory."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError, RasterioIOError

from xt.data import handles
from xt.data.geotiff import CACHE_BYTES, Mask, open_dataset
from xt.errors import ConfigError, InputError
from xt.geometry.grid import Window

Classes = npt.NDArray[np.int64]
Color = tuple[int, int, int]
CHUNK = 256
"""Columns that are counted together; a count fits 16 bits."""
WINDOW = 1024
"""Side of the windows in which a whole raster is gone through."""
INDEX_BYTES = 64 << 20


def windows(height: int, width: int, size: int = WINDOW) -> list[Window]:
    """Windows that cover a raster once, those at the border smaller."""
    corners = [(row, col) for row in range(0, height, size) for col in range(0, width, size)]
    return [Window(row, col, size, size).clip(height, width) for row, col in corners]


def of_colors(pixels: npt.NDArray[Any], colors: Sequence[Color]) -> Classes:
    """Class of pixels ``(3, h, w)``, whose colours are those of all classes but the first."""
    found = np.zeros(pixels.shape[1:], np.int64)
    for number, color in enumerate(colors, start=1):
        found[(pixels == np.reshape(color, (3, 1, 1))).all(0)] = number
    return found


def check_classes(classes: Sequence[str], ignore_index: int, centred: float) -> None:
    """Check what every data module of classes is told.

    Raises:
        ConfigError: If something is wrong; names its key.
    """
    if not classes or len(set(classes)) < len(classes):
        raise ConfigError(f"data.init_args.classes is {list(classes)}; give each of them a name of its own")
    if 0 <= ignore_index < len(classes):
        raise ConfigError(
            f"data.init_args.ignore_index {ignore_index} is the number of class {classes[ignore_index]!r}; take "
            "one that no class has, such as -1"
        )
    if not 0 <= centred <= 1:
        raise ConfigError(f"data.init_args.centred is {centred}; it must lie between 0 and 1")


@dataclass(frozen=True)
class MaskReader:
    """Reads class indexes.

    Attributes:
        num_classes: Classes.
        ignore_index: Value that is not scored; also of nodata, of what a mask hides, and of what lies outside.
        colors: Colour of every class but the first; None if values are class indexes.
        key: Of a sample, under which its classes stand.
        option: That sets ``ignore_index``.
    """

    num_classes: int
    ignore_index: int
    colors: Sequence[Color] | None = None
    key: str = "mask"
    option: str = "data.init_args.ignore_index"

    @property
    def missing(self) -> int:
        """Class of what is not known."""
        return self.ignore_index

    def read(self, path: Path, window: Window | None = None) -> Classes:
        """Read a window, which may reach over the border, or all.

        Raises:
            InputError: If the file cannot be read, has too few bands, or holds a value that is no class.
        """

        def opener(stack: ExitStack) -> Any:
            return handles.keep(stack, open_dataset(path, purpose="label"))

        dataset = handles.borrow(path, "label", opener)
        window = window or Window(0, 0, dataset.height, dataset.width)
        mask = np.full((window.height, window.width), self.ignore_index, np.int64)
        inside = window.clip(dataset.height, dataset.width)
        if inside.height and inside.width:
            place = Window(inside.row - window.row, inside.col - window.col, inside.height, inside.width)
            mask[place.slices] = self._classes(path, dataset, inside)
        return mask

    def _classes(self, path: Path, dataset: Any, window: Window) -> Classes:
        if self.colors is not None and dataset.count < 3:
            raise InputError(f"{path}: {dataset.count} band, colors need three; leave colors out or give an RGB mask")
        place = ((window.row, window.row_stop), (window.col, window.col_stop))
        try:
            with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
                values = dataset.read([1, 2, 3] if self.colors is not None else [1], window=place)
                unknown = dataset.dataset_mask(window=place) == 0 if _hides(dataset) else None
        except (RasterioIOError, RasterioError) as error:
            raise InputError(
                f"{path}: cannot read the mask from row {window.row}, column {window.col}; mend it"
            ) from error
        if self.colors is None:
            mask = self._whole(path, values[0], unknown)
        else:
            mask = of_colors(values, self.colors)
        if unknown is not None:
            mask[unknown] = self.ignore_index
        wrong = mask[(mask != self.ignore_index) & ((mask < 0) | (mask >= self.num_classes))]
        if wrong.size:
            raise InputError(
                f"{path}: value {wrong[0]} is no class (0 … {self.num_classes - 1}); mend the mask, or leave it out "
                f"by {self.option} {wrong[0]} (now {self.ignore_index})"
            )
        return mask

    def _whole(self, path: Path, values: npt.NDArray[Any], unknown: Mask | None) -> Classes:
        """Take floats for class indexes, where they are whole; NaN is not known."""
        if values.dtype.kind == "f":
            missing = np.isnan(values) if unknown is None else np.isnan(values) | unknown
            values = np.where(missing, self.ignore_index, values)
            parts = values[np.isinf(values) | (values != np.trunc(values))]
            if parts.size:
                raise InputError(f"{path}: value {parts[0]:g} is no whole number, so no class; mend the mask")
        return values.astype(np.int64)


def _hides(dataset: Any) -> bool:
    """Whether nodata or a mask says what is not known; what is transparent in a picture may well be a class."""
    flags = set(dataset.mask_flag_enums[0])
    return dataset.nodata is not None or (MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags)


class Foreground:
    """How many foreground pixels each row has in every :data:`CHUNK` columns: 1/128 of a byte for a pixel.

    Args:
        height: Rows.
        width: Columns.
        read: Window → where it is foreground; asked once for all of the raster, then for one row of a chunk at a time.
    """

    def __init__(self, height: int, width: int, read: Callable[[Window], Mask]) -> None:
        self.width = width
        self.counts = np.zeros((height, -(-width // CHUNK)), np.uint16)
        for window in windows(height, width):
            starts = np.arange(0, window.width, CHUNK)
            counts = np.add.reduceat(read(window), starts, axis=1, dtype=np.uint16)
            first = window.col // CHUNK
            self.counts[window.row : window.row_stop, first : first + len(starts)] = counts

    def __len__(self) -> int:
        return int(self.counts.sum(dtype=np.int64))

    def find(self, number: int, read: Callable[[Window], Mask]) -> tuple[int, int]:
        """Return row and column of the pixel that is ``number`` in raster order."""
        row, number = _locate(self.counts.sum(axis=1, dtype=np.int64), number)
        chunk, number = _locate(self.counts[row].astype(np.int64), number)
        start = chunk * CHUNK
        inside = read(Window(row, start, 1, min(CHUNK, self.width - start)))[0]
        return row, start + int(np.flatnonzero(inside)[number])


class ForegroundIndex:
    """Keeps :class:`Foreground` of the rasters used last, up to :data:`INDEX_BYTES`."""

    def __init__(self) -> None:
        self.kept: OrderedDict[int, Foreground] = OrderedDict()

    def get(self, key: int, height: int, width: int, read: Callable[[Window], Mask]) -> Foreground:
        """Return that of a raster; made when it is not kept."""
        if key not in self.kept:
            self.kept[key] = Foreground(height, width, read)
            while len(self.kept) > 1 and sum(each.counts.nbytes for each in self.kept.values()) > INDEX_BYTES:
                self.kept.popitem(last=False)
        self.kept.move_to_end(key)
        return self.kept[key]


def _locate(counts: npt.NDArray[np.int64], number: int) -> tuple[int, int]:
    """Return which bin holds item ``number``, and the item's number inside it."""
    ends = counts.cumsum()
    index = int(np.searchsorted(ends, number, side="right"))
    return index, number - int(ends[index] - counts[index])
