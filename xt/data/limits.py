"""A part of an image: inside a window, inside polygons, or where a mask says so. The rest has no data."""

from contextlib import ExitStack
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from rasterio.features import geometry_mask
from rasterio.rpc import RPC

from xt.data import handles
from xt.data.georeference import check_same_grid, profile_of
from xt.data.geotiff import Mask, Pixels, open_dataset, read_window, state_of
from xt.data.polygons import Shapes, read_polygons, touching
from xt.data.source import Source
from xt.errors import InputError
from xt.geometry.grid import Window


class LimitedSource(Source):
    """An image of which a part counts.

    Args:
        source: The image.
        aoi: Polygons (GeoJSON, GeoPackage, shapefile …); pixels whose centre lies in none have no data.
        mask: Raster on the image's grid; pixels where it is 0 or has no data have no data.
        crop: Pixels that are taken; windows then count from its first one.

    Raises:
        InputError: If the polygons or the mask cannot be read or do not fit, or the window is not inside the image.
    """

    def __init__(
        self, source: Source, aoi: Path | None = None, mask: Path | None = None, crop: Window | None = None
    ) -> None:
        self.__dict__ |= vars(source)
        whole = Window(0, 0, source.height, source.width)
        self.crop = crop or whole
        if self.crop.clip(source.height, source.width) != self.crop or not (self.crop.height and self.crop.width):
            raise InputError(
                f"{source.path}: the window {','.join(map(str, astuple(self.crop)))} is not inside the image of "
                f"{source.height} × {source.width} px"
            )
        self.whole, self.mask, self.aoi = source, mask, aoi
        self.height, self.width = self.crop.height, self.crop.width
        self.polygons = None if aoi is None else _polygons(aoi, source)
        self.tree = shapely.STRtree([] if self.polygons is None else self.polygons)
        if mask is not None:
            check_same_grid(mask, profile_of(self._mask_dataset(mask)), source.path, source.profile())
        self.before = self._state()

    @property
    def origin(self) -> tuple[int, int]:
        """Row and column of the first pixel that is taken."""
        return self.crop.row, self.crop.col

    def read(self, window: Window, gain: float = 1.0) -> tuple[Pixels, Mask]:
        """Read a window, counted from the first pixel that is taken, as :meth:`Source.read` does."""
        pixels = np.zeros((len(self.inputs.bands), window.height, window.width), np.float32)
        valid = np.zeros((window.height, window.width), bool)
        inside = window.clip(self.height, self.width)
        if not inside.height or not inside.width:
            return pixels, valid
        at = Window(inside.row + self.crop.row, inside.col + self.crop.col, inside.height, inside.width)
        counts = self._counts(at)
        if counts.any():
            place = inside.within(window).slices
            values, known = self.whole.read(at, gain)
            valid[place] = known & counts
            pixels[:, *place] = np.where(valid[place], values, np.float32(0))
        return pixels, valid

    def profile(self) -> dict[str, Any]:
        """Grid of what is taken."""
        profile = self.whole.profile() | {"height": self.height, "width": self.width}
        row, col = self.crop.row, self.crop.col
        if not row and not col:
            return profile
        if "transform" in profile:
            profile["transform"] = profile["transform"] * rasterio.Affine.translation(col, row)
        if "gcps" in profile:
            points = [point.asdict() for point in profile["gcps"]]
            moved = [point | {"row": point["row"] - row, "col": point["col"] - col} for point in points]
            profile["gcps"] = [rasterio.control.GroundControlPoint(**point) for point in moved]
        if "rpcs" in profile:
            rpcs = profile["rpcs"].to_dict()
            profile["rpcs"] = RPC(**rpcs | {"line_off": rpcs["line_off"] - row, "samp_off": rpcs["samp_off"] - col})
        return profile

    def close(self) -> None:
        """Close this thread's handles; reading opens them again."""
        self.whole.close()
        if self.mask is not None:
            handles.close({self.mask})

    def _counts(self, at: Window) -> Mask:
        counts = np.ones((at.height, at.width), bool)
        if self.polygons is not None:
            near = self.polygons[touching(self.tree, at)].tolist()
            moved = rasterio.Affine.translation(at.col, at.row)
            counts &= geometry_mask(near, (at.height, at.width), moved, invert=True) if near else False
        if self.mask is not None and counts.any():
            values, known = read_window(self._mask_dataset(self.mask), at, (1,))
            counts &= known & (values[0] != 0)
        return counts

    def _mask_dataset(self, path: Path) -> Any:
        def opener(stack: ExitStack) -> Any:
            return handles.keep(stack, open_dataset(path, purpose="label"))

        return handles.borrow(path, "mask", opener)

    def _state(self) -> list[tuple[int, int]]:
        return [*self.whole._state(), *(state_of(path) for path in (self.mask, self.aoi) if path is not None)]

    @property
    def fingerprint(self) -> list[tuple[Path, tuple[int, int]]]:
        """Files, those of mask and polygons too, as they were at the start."""
        files = [*self.whole.files.values(), *(path for path in (self.mask, self.aoi) if path is not None)]
        return list(zip(files, self.before, strict=True))


def _polygons(path: Path, source: Source) -> Shapes:
    shapes, _ = read_polygons(path, source)
    if not len(shapes):
        raise InputError(f"{path}: holds no polygon; give polygons of what counts")
    return shapes
