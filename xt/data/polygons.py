"""Polygons of a file (GeoJSON, GeoPackage, shapefile …), brought to the pixels of an image."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyogrio
import rasterio
import shapely

from xt.data.georeference import Floats, is_placed, map_crs, project, to_map, to_pixels, turns
from xt.data.vector_files import FAULTS, only_layer
from xt.errors import InputError
from xt.geometry.grid import Window

PLACES = 33
"""Places along each side of an image by which its extent in another CRS is told."""
VERTICES = 8
"""Polygons of another CRS get so many vertices from one such place to the next; straight lines bend."""
MOST_VERTICES = 2**18
"""That an edge gets, however small the image is."""
MARGIN = 0.05
"""Share of that extent by which it is widened on each side."""
AREAS = shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON, shapely.GeometryType.GEOMETRYCOLLECTION
"""Types of what may hold polygons."""
Shapes = npt.NDArray[np.object_]


class OnMap(Protocol):
    """A raster on which polygons may lie, such as :class:`~xt.data.source.Source`."""

    @property
    def path(self) -> Path:
        """Its file."""

    @property
    def height(self) -> int:
        """Rows."""

    @property
    def width(self) -> int:
        """Columns."""

    def profile(self) -> dict[str, Any]:
        """Its grid, as :func:`~xt.data.georeference.profile_of` gives it."""


def read_polygons(
    path: Path, source: OnMap, column: str | None = None, near: bool = False
) -> tuple[Shapes, npt.NDArray[Any]]:
    """Read the polygons of a file in pixels of an image.

    Args:
        path: The file; it needs a CRS.
        source: The image; it needs one too, and a georeference.
        column: Column of the file that is read too.
        near: Leave out those that lie far from the image, which a file with an index need not read.

    Returns:
        Valid polygons, whose x is the column and y the row, from the corner of the first pixel; and the values of
        ``column`` for each, or None.

    Raises:
        InputError: If file or image do not say where they lie, or the file cannot be read.
    """
    (layer, given), own = _layer(path), placed(source, path)
    around = turns(source.profile())
    x, y = _sampled(source, own, given)
    boxes = _extent(x, y, given) if (near or given != own) and not around else []
    bounds = tuple(shapely.total_bounds(boxes)) if near and boxes else None
    try:
        columns = [column] if column else []
        _, _, geometry, values = pyogrio.raw.read(path, layer, columns=columns, bbox=bounds)
        shapes = shapely.from_wkb(geometry)
    except FAULTS as error:
        raise unreadable(path, error) from error
    told = values[0] if len(values) else np.full(len(shapes), None)
    kept = np.isin(shapely.get_type_id(shapes), AREAS)
    shapes, told = shapely.force_2d(shapes[kept]), told[kept]
    if not np.isfinite(shapely.get_coordinates(shapes)).all():
        raise InputError(f"{path}: a polygon has a vertex whose x or y is no number; mend it")
    if not len(shapes):
        return shapes, told
    if given != own:
        # Vertices are added to valid polygons only: of one that crosses itself a part would be lost.
        shapes = shapely.make_valid(shapes)
        if boxes:
            shapes = shapely.intersection(shapes, shapely.union_all(boxes))
        shapes = shapely.segmentize(shapes, _apart(x, y, shapes) or 1.0)
    places, owner = shapely.get_coordinates(shapes, return_index=True)
    x, y = project(given, own, *places.T)
    nowhere = owner[~(np.isfinite(x) & np.isfinite(y))]
    if len(nowhere):
        there = ~np.isin(owner, nowhere)
        x, y = x[there], y[there]
        shapes, told = np.delete(shapes, np.unique(nowhere)), np.delete(told, np.unique(nowhere))
        owner = np.unique(owner[there], return_inverse=True)[1]
    if around and not given.is_geographic:
        x = _untorn(x, owner)
    moved = []
    for turn in (0.0, *around):  # shapes that end at the antimeridian go on beyond it; none is torn
        rows, cols = to_pixels(x + turn, y, source.profile())
        moved.append(shapely.set_coordinates(shapes.copy(), np.stack([cols + 0.5, rows + 0.5], axis=1)))
    found = np.array([_areas(each) for each in shapely.make_valid(np.concatenate(moved))], object)
    return found, np.concatenate([told] * len(moved))


def check_polygons(path: Path) -> None:
    """Find out whether a file holds shapes with a CRS, before anything is done with them.

    Raises:
        InputError: If it does not, or cannot be read.
    """
    layer, _ = _layer(path)
    if pyogrio.read_info(path, layer)["features"] == 0:
        raise InputError(f"{path}: holds no polygon; give polygons of what counts")


def placed(source: OnMap, path: Path) -> Any:
    """CRS of an image on which the polygons of a file shall lie.

    Raises:
        InputError: If it has none, or no georeference.
    """
    own = map_crs(source.profile())
    if own is None or not is_placed(source.profile()):
        raise InputError(f"{source.path}: no CRS or georeference, so the polygons of {path} cannot be placed")
    return own


def touching(tree: shapely.STRtree, window: Window) -> npt.NDArray[np.int64]:
    """Which polygons of a tree touch a window."""
    box = shapely.box(window.col, window.row, window.col_stop, window.row_stop)
    return np.asarray(tree.query(box, "intersects"))


def _layer(path: Path) -> tuple[str, Any]:
    """The layer of a file of polygons, and its CRS."""
    try:
        layer = only_layer(path)
        told = pyogrio.read_info(path, layer)["crs"]
    except FAULTS as error:
        raise unreadable(path, error) from error
    if told is None:
        raise InputError(f"{path}: has no CRS; save it with one")
    return layer, rasterio.CRS.from_user_input(told)


def _untorn(x: npt.NDArray[np.float64], owner: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Count longitudes of shapes that cross the antimeridian from one side: none is wider than half the globe."""
    low, high = np.full(owner.max(initial=0) + 1, np.inf), np.full(owner.max(initial=0) + 1, -np.inf)
    np.minimum.at(low, owner, x)
    np.maximum.at(high, owner, x)
    return np.where((high - low > 180)[owner] & (x < 0), x + 360, x)


def _areas(shape: Any) -> Any:
    """What is left of a polygon that was mended, without its lines and points."""
    if shape.geom_type.endswith("Polygon"):
        return shape
    return shapely.union_all([each for each in shapely.get_parts(shape) if each.geom_type.endswith("Polygon")])


def _sampled(source: OnMap, own: Any, given: Any) -> tuple[Floats, Floats]:
    """Places all over an image in another CRS, as two grids."""
    rows, cols = np.meshgrid(*(np.linspace(-0.5, side - 0.5, PLACES) for side in (source.height, source.width)))
    x, y = project(own, given, *to_map(rows.ravel(), cols.ravel(), source.profile()))
    return x.reshape(rows.shape), y.reshape(rows.shape)


def _extent(x: Floats, y: Floats, given: Any) -> list[Any]:
    """The box around places, widened; two if the antimeridian lies between them, none where it cannot be told."""
    if not (np.isfinite(x) & np.isfinite(y)).all():
        return []
    if given.is_geographic and np.ptp(x) > 180 >= np.ptp(x % 360):
        x = x % 360
    wide, high = MARGIN * np.ptp(x), MARGIN * np.ptp(y)
    left, bottom, right, top = x.min() - wide, y.min() - high, x.max() + wide, y.max() + high
    if not given.is_geographic or (left >= -180 and right <= 180):
        return [shapely.box(left, bottom, right, top)]
    turns = [turn for turn in (-360, 0, 360) if left + turn < 360 and right + turn > -360]
    return [shapely.box(left + turn, bottom, right + turn, top) for turn in turns]  # some count on beyond 180


def _apart(x: Floats, y: Floats, shapes: Shapes) -> float:
    """How far vertices may be from each other, by what places all over the image mostly are."""
    left, bottom, right, top = shapely.total_bounds(shapes)
    least = max(right - left, top - bottom) / MOST_VERTICES
    with np.errstate(invalid="ignore"):
        apart = [np.hypot(np.diff(x, axis=axis), np.diff(y, axis=axis)) for axis in (0, 1)]
    known = [each[np.isfinite(each)] for each in apart]
    return float(max([least, *(np.median(each) / VERTICES for each in known if len(each))]))


def unreadable(path: Path, error: Exception) -> InputError:
    """What to say of a file that cannot be read."""
    return InputError(f"{path}: no polygons can be read: {str(error).splitlines()[0]}")
