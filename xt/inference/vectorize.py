"""Polygons of a map of classes, streamed to a file while the map is read once from top to bottom."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from xt.data.georeference import (
    WGS84,
    Floats,
    check_places,
    is_placed,
    map_crs,
    profile_of,
    project,
    to_map,
    warn_without_place,
)
from xt.data.geotiff import class_names, open_raster, read_values
from xt.errors import ConfigError, InputError, at_least, nearest
from xt.files import locked, replacing
from xt.geometry.grid import Window
from xt.inference.bending import bent
from xt.inference.layers import DRIVERS, copy_layer, decimals, is_on_earth, write_layer
from xt.inference.outputs import check_outputs, refuse_inputs
from xt.inference.polygons import Polygon, PolygonJoiner

STRIP_PIXELS = 1 << 20
"""Read at once: whole rows, at least one."""
BATCH_CORNERS = 1 << 18
"""Corners of polygons that are brought to the map and written at once."""
EDGE_PIXELS = 64
"""Edges get a corner at least so often where straight lines of the grid are bent on the map, and more as they are."""
LAYER = "polygons"


@dataclass
class Vectorized:
    """What came of a map.

    Attributes:
        map: The raster.
        output: The file of polygons.
        polygons: How many.
        by_class: How many of each class, by its name, or its number where it has none.
    """

    map: str
    output: str
    polygons: int = 0
    by_class: dict[str, int] = field(default_factory=dict)


def vectorize(
    path: str | Path,
    out: str | Path,
    *,
    classes: Sequence[str | int] | None = None,
    band: int | None = None,
    nodata: float | None = None,
    min_area: float = 0.0,
    simplify: float = 0.0,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Vectorized:
    """Write pixels of one class that touch along an edge as a polygon, in memory that the map's size does not set.

    What is kept is what crosses from one strip of rows to the next. Pixels without data are in no polygon. The fields
    are ``class`` (number), ``name`` (if the map has names, as ``xt predict`` writes them), ``pixels``, and ``area_m2``,
    measured in the plane of a projected CRS and empty elsewhere.

    Args:
        path: Raster of whole numbers.
        out: GeoPackage (``.gpkg``), in the CRS of the map, or GeoJSON (``.geojson``), in longitude and latitude.
        classes: Names or numbers of those that are wanted; all by default.
        band: 1-based; needed where there are several.
        nodata: Value that is no data, beside what the file says.
        min_area: Smaller polygons are left out: in m² where the CRS is projected, in pixels elsewhere.
        simplify: How far borders may be moved to save corners, in pixels. Neighbours are simplified each on its own, so
            gaps and overlaps up to twice as wide come up between them. Areas stay those of the pixels.
        overwrite: Replace ``out``.
        progress: Called with rows done and rows in all.

    Raises:
        InputError: If the map cannot be read, has no whole numbers, or its georeference gives no places.
        OutputError: If ``out`` exists, is the map, cannot be written, or is held by another run.
        ConfigError: If an option is wrong.
    """
    path, out = Path(path), Path(out)
    if out.suffix.lower() not in DRIVERS:
        raise ConfigError(f"{out}: name it {' or '.join(DRIVERS)}, which says how polygons are written")
    at_least(0, "vectorize", min_area=min_area, simplify=simplify)
    refuse_inputs([out], [path])
    result = Vectorized(str(path), str(out))
    check_outputs([out], overwrite)
    before = _state(path)
    with locked(out), open_raster(path, purpose="label") as dataset:
        band = _band(dataset, path, band)
        names = class_names(dataset, band)
        wanted = None if classes is None else _numbers(classes, names, path)
        profile = profile_of(dataset)
        check_places(path, profile)
        layer = _Layer(profile, names, min_area, simplify)
        with replacing(out) as partial:
            layer.write(partial, _batches(_polygons(dataset, band, nodata, wanted, progress)))
            if _state(path) != before:
                raise InputError(f"{path}: has changed while it was read; run again")
            check_outputs([out], overwrite)  # somebody may have put one there meanwhile
    warn_without_place(path, profile)
    result.polygons = layer.counts.total()
    result.by_class = {names.get(value, str(value)): layer.counts[value] for value in sorted(layer.counts)}
    return result


class _Layer:
    """Brings polygons to the map and writes them.

    Args:
        profile: Grid of the raster.
        names: Of classes, by number.
        min_area: As in :func:`vectorize`.
        simplify: As in :func:`vectorize`.

    Attributes:
        counts: Polygons by class.
    """

    def __init__(self, profile: dict[str, Any], names: dict[int, str], min_area: float, simplify: float) -> None:
        self.profile, self.names, self.min_area, self.simplify = profile, names, min_area, simplify
        self.crs = map_crs(profile)
        self.counts: Counter[int] = Counter()
        projected = self.crs is not None and self.crs.is_projected
        self.metres = float(self.crs.linear_units_factor[1]) if projected else None
        transform = profile.get("transform")
        self.pixel = None if transform is None else abs(transform.determinant)
        self.bends = transform is None and is_placed(profile)

    def write(self, partial: Path, batches: Iterator[list[Polygon]]) -> None:
        """Write all, by way of a GeoPackage: to it can be appended in little memory."""
        package = partial if DRIVERS[partial.suffix.lower()] == "GPKG" else partial.with_name(f"{partial.name}.gpkg")
        in_wgs84 = package != partial and is_on_earth(self.crs) and self.crs.to_string() != WGS84
        place = self._in_wgs84 if in_wgs84 else self._on_map
        bends = in_wgs84 or self.bends
        degrees = in_wgs84 or (self.crs is not None and self.crs.is_geographic)
        append = False
        for batch in chain(batches, [[]]):
            if batch or not append:
                shapes, columns = self._shapes(batch)
                if bends:
                    shapes = bent(shapely.segmentize(shapes, EDGE_PIXELS), place, degrees)
                write_layer(package, self._mapped(shapes), columns, "Polygon", LAYER, self.crs, append=append)
                append = True
        if package != partial:
            copy_layer(package, partial, "Polygon", LAYER, self.crs, decimals(self.profile))

    def _shapes(self, batch: list[Polygon]) -> tuple[npt.NDArray[Any], dict[str, npt.NDArray[Any]]]:
        shapes, values = _shapes(batch), np.array([each.value for each in batch], np.int64)
        pixels = shapely.area(shapes)
        areas = self._square_metres(shapes, pixels)
        keep = (pixels if self.metres is None else areas) >= self.min_area
        shapes, values = shapes[keep], values[keep]
        self.counts.update(values.tolist())
        columns = {
            "class": values,
            "name": np.array([self.names.get(each) for each in values.tolist()], object),
            "pixels": pixels[keep].astype(np.int64),
            "area_m2": areas[keep],
        }
        if self.simplify:
            shapes = shapely.simplify(shapes, self.simplify)
        return shapes, columns

    def _square_metres(self, shapes: npt.NDArray[Any], pixels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if self.metres is None:
            return np.full(len(shapes), np.nan)
        if self.bends:
            own = shapely.area(self._mapped(bent(shapely.segmentize(shapes, EDGE_PIXELS), self._on_map, False)))
        elif self.pixel is None:
            own = pixels
        else:
            own = pixels * self.pixel
        return np.asarray(own * self.metres**2)

    def _mapped(self, shapes: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.asarray(shapely.transform(shapes, self._on_map), object)

    def _on_map(self, corners: Floats) -> Floats:
        return np.stack(to_map(corners[:, 1] - 0.5, corners[:, 0] - 0.5, self.profile), axis=1)

    def _in_wgs84(self, corners: Floats) -> Floats:
        return np.stack(project(self.crs, WGS84, *self._on_map(corners).T), axis=1)


def _polygons(
    dataset: Any,
    band: int,
    nodata: float | None,
    wanted: npt.NDArray[np.int64] | None,
    progress: Callable[[int, int], None],
) -> Iterator[Polygon]:
    joiner = PolygonJoiner(dataset.height, dataset.width)
    rows = max(1, STRIP_PIXELS // dataset.width)
    for row in range(0, dataset.height, rows):
        window = Window(row, 0, rows, dataset.width).clip(dataset.height, dataset.width)
        values, counts = read_values(dataset, window, band, nodata)
        yield from joiner.add(values, counts if wanted is None else counts & np.isin(values, wanted))
        progress(window.row_stop, dataset.height)


def _batches(polygons: Iterator[Polygon]) -> Iterator[list[Polygon]]:
    batch: list[Polygon] = []
    corners = 0
    for polygon in polygons:
        batch.append(polygon)
        corners += sum(map(len, polygon.rings))
        if corners >= BATCH_CORNERS:
            yield batch
            batch, corners = [], 0
    if batch:
        yield batch


def _shapes(batch: list[Polygon]) -> npt.NDArray[Any]:
    """Polygons in pixels."""
    if not batch:
        return np.zeros(0, object)
    rings = [ring for polygon in batch for ring in polygon.rings]
    of_rings = np.cumsum([0, *map(len, rings)])
    of_polygons = np.cumsum([0, *(len(polygon.rings) for polygon in batch)])
    corners = np.concatenate(rings).astype(np.float64)
    return np.asarray(shapely.from_ragged_array(shapely.GeometryType.POLYGON, corners, (of_rings, of_polygons)))


def _band(dataset: Any, path: Path, band: int | None) -> int:
    if band is None and dataset.count > 1:
        raise InputError(f"{path}: {dataset.count} bands; choose the one with classes by --band")
    band = 1 if band is None else band
    if not 1 <= band <= dataset.count:
        raise InputError(f"{path}: no band {band}; it has {dataset.count} (1-based)")
    dtype = np.dtype(dataset.dtypes[band - 1].replace("complex_int16", "complex64"))
    if not np.issubdtype(dtype, np.integer) or dtype == np.uint64:
        raise InputError(f"{path}: {dataset.dtypes[band - 1]} samples; polygons are made of whole numbers up to int64")
    return band


def _numbers(classes: Sequence[str | int], names: dict[int, str], path: Path) -> npt.NDArray[np.int64]:
    numbers = []
    for each in classes:
        named = [value for value, name in names.items() if name == each]
        if not named and not re.fullmatch(r"-?\d{1,18}", str(each)):
            raise ConfigError(f"{path}: no class {each!r}{nearest(str(each), names.values()) or '; give its number'}")
        numbers += named or [int(each)]
    return np.array(numbers, np.int64)


def _state(path: Path) -> tuple[int, int] | None:
    """Size and time of a file; None where there is none, which opening it complains of."""
    with suppress(OSError):
        status = os.stat(path)
        return status.st_size, status.st_mtime_ns
    return None
