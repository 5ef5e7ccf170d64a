"""Photos: images of any size whose class is asked of the whole, as training of classes of images sees them."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from xt.data.address import is_virtual, shown
from xt.data.formats import is_raster
from xt.data.georeference import profile_of
from xt.data.geotiff import Mask, Pixels, open_raster
from xt.data.source import InputSpec, Source
from xt.errors import InputError
from xt.geometry.grid import Window

RESIZED = "interpolation-cubic"
"""How STAC MLM calls it (``resize_type``) where a model sees the middle square of an image, brought to its size."""
Bytes = npt.NDArray[np.uint8]


@contextmanager
def open_photo(path: Path) -> Iterator[Image.Image]:
    """Open an image file as red, green and blue of 8 bits. Of 16 bits the upper ones count, whatever their unit.

    Raises:
        InputError: If it cannot be read, or holds fractions.
    """
    try:
        with Image.open(path) as opened:
            if opened.mode == "F":
                raise InputError(f"{path}: holds fractions, no shades of a photo")
            if opened.mode == "I" or opened.mode.startswith("I;"):  # Pillow would make white of all above 255
                shades = np.asarray(opened).astype(np.int64).clip(0, 2**16 - 1) >> 8
                yield Image.fromarray(shades.astype(np.uint8)).convert("RGB")
            else:
                yield opened.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise InputError(f"{path}: cannot be read as an image ({error})") from error


def middle_square(image: Image.Image, size: int) -> Bytes:
    """The largest square in the middle of an image, resized (bicubic): ``(size, size, 3)``."""
    width, height = image.size
    side = float(min(width, height))
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    square: Bytes = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))
    return square


class Photo(Source):
    """A photo as a model sees it: its middle square, ``size`` × ``size`` px, every pixel valid.

    Height, width and windows are those of the square; :meth:`profile` is that of the file.

    Args:
        path: Image file.
        inputs: Bands and statistics of the model.
        size: Side of the square.

    Raises:
        InputError: If it is no image file, or the model takes other bands than red, green and blue.
    """

    def __init__(self, path: Path, inputs: InputSpec, size: int) -> None:
        advice = f"its class cannot be asked of the whole; --tile {size} asks windows of it"
        if len(inputs.bands) != 3:
            raise InputError(f"{shown(path)}: the model takes {len(inputs.bands)} bands, no photo; {advice}")
        if is_virtual(path) or path.is_dir():
            raise InputError(f"{shown(path)}: is no image file on this machine; {advice}")
        self.path, self.inputs, self.complex_abs = path, inputs, False
        self.nodata, self.coarse, self.names, self.indexes = (), frozenset(), (), (1, 2, 3)
        self.files = {path.stem: path}
        self.height = self.width = size
        self.before = self._state()
        try:
            with open_photo(path) as image:
                self._size = image.size
                self._square = np.ascontiguousarray(middle_square(image, size).transpose(2, 0, 1))
        except InputError as error:
            raise InputError(f"{error}; {advice}") from error

    @property
    def strips(self) -> bool:
        """It is read at once."""
        return False

    def read_raw(self, window: Window) -> tuple[Pixels, Mask, Mask]:
        """Read a window of the square, as :meth:`Source.read_raw` does."""
        shape = (3, window.height, window.width)
        pixels, valid = np.zeros(shape, np.float32), np.zeros(shape[1:], bool)
        inside = window.clip(self.height, self.width)
        if inside.height and inside.width:
            place = inside.within(window).slices
            pixels[:, *place], valid[place] = self._square[:, *inside.slices], True
        return pixels, np.broadcast_to(valid, shape), valid

    def profile(self) -> dict[str, Any]:
        """Grid of the file."""
        if is_raster(self.path):
            with suppress(InputError), open_raster(self.path) as dataset:  # georeference is all that is asked for
                return profile_of(dataset)
        return {"height": self._size[1], "width": self._size[0], "crs": None}

    def close(self) -> None:
        """Nothing is open."""
