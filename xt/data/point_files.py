"""Objects of CSV, GeoJSON, GeoPackage, FlatGeobuf and shapefiles, brought to the pixels of scenes."""

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pyogrio
import rasterio
import shapely

from xt.data import vector_files
from xt.data.georeference import is_placed, map_crs, project, to_pixels, turns
from xt.data.labels import ATTRIBUTES, CLASS, SCENE, LabelTable, as_table, sure
from xt.data.rows import Columns, number, parse_rows, read_csv
from xt.data.source import Source
from xt.errors import LabelError, XTWarning, nearest

SUFFIXES = (".csv", *vector_files.SUFFIXES)
_PIXELS = ("row", "column"), ("detect_scene_row", "detect_scene_column")
_MAP = ("x", "y")
_BOX = ("xmin", "ymin", "xmax", "ymax")
PLACES = frozenset({*_MAP, *itertools.chain(*_PIXELS), *_BOX, "scene_id", "image_path"})
"""Columns that say where an object lies."""
_SHORT = {"vessel_len": "vessel_length_m"}
"""What shapefiles, whose names have ten letters, make of a name."""
_SHAPES = (shapely.GeometryType.POINT, shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)


def read_points(
    path: Path,
    scenes: Mapping[str, Source],
    drop_bad: bool = False,
    classes: Sequence[str] | None = (),
    column: str = CLASS,
    tell: bool = False,
) -> LabelTable:
    """Read the objects of scenes.

    Where an object lies is told by the columns ``row`` and ``column`` (pixels; also ``detect_scene_row`` and
    ``detect_scene_column``), by ``x`` and ``y`` (on the map of the scene), by the centre of a box ``xmin``, ``ymin``,
    ``xmax`` and ``ymax`` (pixels from the corner of the image), or by the geometry (brought to the CRS of the scene, if
    both are known): points, or polygons, whose centre counts. Which scene it lies in is told by a column ``scene_id``
    or by the file name in ``image_path``; without one, an object on the map belongs to every scene that it lies in. All
    attributes of :class:`~xt.data.labels.LabelTable` are optional; without a confidence an object is sure (HIGH).

    Args:
        path: CSV, GeoJSON, GeoPackage, FlatGeobuf or shapefile; or a folder that holds ``SCENE`` in one of these for
            each scene with objects.
        scenes: By name.
        drop_bad: Leave bad rows out instead of failing.
        classes: Of the objects; none for objects without, None for whatever the file says.
        column: Column that names the class.
        tell: Warn of objects of a file, and files of a folder, that belong to none of the scenes.

    Raises:
        LabelError: If a file cannot be read, does not say where objects lie, has bad rows, or has objects of which
            none lies in any scene.
    """
    of_class: Columns = {column: ("label", _one_of(classes) if classes else str.strip)}
    needed, optional = (of_class if each else {} for each in (classes, classes is None))
    if not path.is_dir():
        return _read(path, scenes, None, drop_bad, needed, ATTRIBUTES | optional, tell)
    files = vector_files.by_image(path, SUFFIXES)
    found = [(name, each) for name, each in files.items() if name in scenes]
    if not found:
        raise LabelError(
            f"{path}: no file SCENE.csv, .geojson, .gpkg, .fgb or .shp for any scene, such as {next(iter(scenes))}.csv"
        )
    if tell:
        vector_files.warn_of_strays(path, files, scenes, "objects")
    more = needed, ATTRIBUTES | optional
    tables = [_read(file, {name: scenes[name]}, name, drop_bad, *more) for name, file in found]
    return LabelTable.concatenate(tables)


def _file(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return PureWindowsPath(text.strip()).stem  # takes both kinds of slashes


_FILE: Columns = {"image_path": ("scene_id", _file)}


def _one_of(classes: Sequence[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.strip() not in classes:
            raise ValueError(f"{text!r} is no class ({', '.join(classes)})")
        return text.strip()

    return parse


def _read(
    path: Path,
    scenes: Mapping[str, Source],
    scene: str | None,
    drop_bad: bool,
    needed: Columns,
    optional: Columns,
    tell: bool = False,
) -> LabelTable:
    vector = path.suffix.lower() in vector_files.SUFFIXES
    header, rows, crs = _vector_rows(path, drop_bad) if vector else (*read_csv(path), None)
    start = list(itertools.islice(rows, 1))
    if vector and not start:
        return LabelTable.build(0)  # GeoJSON names no columns then
    pair = next((each for each in (_MAP, *_PIXELS, _BOX) if set(each) <= set(header)), None)
    if pair is None:
        named = ", ".join(map(repr, header[:12])) or "none"
        raise LabelError(
            f"{path}: does not say where objects lie; give columns row and column, or x and y, or xmin, ymin, xmax and "
            f"ymax, separated by commas (its columns: {named})"
        )
    for column in needed:
        if column not in header:
            theirs = [name for name in header if name not in PLACES]
            advice = "name the column of classes by data.init_args.column (xt score: --column)"
            raise LabelError(f"{path}: no column {column!r}{nearest(column, theirs)}; {advice}")
    low = -0.5 if pair in _PIXELS else -math.inf
    names = _BOX if pair is _BOX else ("row", "column")
    columns: Columns = {name: (field, number(low, True)) for name, field in zip(pair, names, strict=True)} | needed
    alone = len(scenes) == 1 or scene is not None
    of_scene = SCENE if "scene_id" in header or "image_path" not in header else _FILE
    told = next(iter(of_scene)) in header
    if pair is not _MAP and not alone and not told:
        raise LabelError(f"{path}: pixels of which scene? give a column scene_id, or a file for each scene in a folder")
    num, parsed = parse_rows(
        path, header, itertools.chain(start, rows), columns, optional | ({} if scene else of_scene), drop_bad
    )
    if pair is _BOX:
        left, top, right, bottom = (np.array(parsed.pop(name), np.float64) for name in _BOX)
        parsed |= {"row": ((top + bottom) / 2 - 0.5).tolist(), "column": ((left + right) / 2 - 0.5).tolist()}
    table = sure(as_table(num, parsed))
    if scene is not None or (alone and not told and pair is not _MAP):
        table = replace(table, scene_id=np.full(num, scene or next(iter(scenes))))
    if pair is _MAP:
        placed, used = _place(path, table, scenes, crs)
    else:
        used = np.isin(table.scene_id, list(scenes))
        placed = table.select(used)
    if not used.all():
        lost = table.select(~used)
        how_many, why = f"of its {len(table)} objects", _why(lost, scenes, crs)
        if not used.any():
            raise LabelError(f"{path}: none {how_many} lies in an image; {why}")
        if tell:
            text = f"{path}: {len(lost)} {how_many} lie in no image and are left out; {why}"
            warnings.warn(text, XTWarning, stacklevel=3)
    return _inside(path, placed, scenes, drop_bad)


def _why(table: LabelTable, scenes: Mapping[str, Source], crs: Any) -> str:
    """What to look at where no object lies in any scene."""
    name = next(iter(scenes))
    if table.scene_id[0]:
        return f"its scene_id {str(table.scene_id[0])!r} is the name of none, {name!r} is one"
    there = f"{table.row[0]:.10g}, {table.column[0]:.10g}" + (f" in {crs.to_string()}" if crs is not None else "")
    own = map_crs(scenes[name].profile())
    return f"check x and y: the first is {there}, {name} is in {own.to_string() if own else 'no CRS'}"


def _place(
    path: Path, table: LabelTable, scenes: Mapping[str, Source], crs: Any
) -> tuple[LabelTable, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Bring x and y, which stand in the fields of row and column, to pixels; and which objects belong to a scene."""
    placed, used = [], np.zeros(len(table), bool)
    for name, source in scenes.items():
        among = np.flatnonzero((table.scene_id == name) | (table.scene_id == ""))
        free = table.select(among)
        if not len(free):
            continue
        profile = source.profile()
        x, y = free.row, free.column
        own = map_crs(profile)
        mapped = is_placed(profile)
        if not mapped and not (free.scene_id == name).any():
            continue
        if not mapped or (crs is not None and own is None):
            raise LabelError(
                f"{source.path}: no {'CRS' if mapped else 'georeference'}, so the points of {path} cannot be placed; "
                "give pixels instead"
            )
        if crs is not None:
            x, y = project(crs, own, x, y)
        mine = _at(free, x, y, profile)
        there = _on(mine, source)
        for turn in turns(profile):
            other = _at(free, x + turn, y, profile)
            beyond = _on(other, source) & ~there
            mine = replace(
                mine, row=np.where(beyond, other.row, mine.row), column=np.where(beyond, other.column, mine.column)
            )
            there |= beyond
        there |= free.scene_id == name
        used[among[there]] = True
        placed.append(replace(mine, scene_id=np.full(len(mine), name)).select(there))
    return LabelTable.concatenate(placed), used


def _at(table: LabelTable, x: Any, y: Any, profile: Any) -> LabelTable:
    rows, cols = to_pixels(x, y, profile)
    return replace(table, row=rows, column=cols)


def _inside(path: Path, table: LabelTable, scenes: Mapping[str, Source], drop_bad: bool) -> LabelTable:
    """Refuse objects outside the scene that they are said to lie in, or leave them out."""
    outside = np.zeros(len(table), bool)
    for name in table.scenes:
        outside |= (table.scene_id == name) & ~_on(table, scenes[name])
    if not outside.any():
        return table
    name, row, col = (each[outside][0] for each in (table.scene_id, table.row, table.column))
    text = (
        f"{path}: {outside.sum()} of {len(table)} objects lie outside their image, such as row {row:.1f}, column "
        f"{col:.1f} of {name} ({scenes[name].height} × {scenes[name].width} px)"
    )
    if not drop_bad:
        advice = "check the columns and the CRS, or drop them (--drop-bad-labels; data.drop_bad_labels)"
        raise LabelError(f"{text}; {advice}")
    warnings.warn(f"{text}, and are left out", XTWarning, stacklevel=4)
    return table.select(~outside)


def _on(table: LabelTable, source: Source) -> np.ndarray[Any, np.dtype[np.bool_]]:
    rows, cols = table.row + 0.5, table.column + 0.5
    return np.asarray((rows >= 0) & (rows < source.height) & (cols >= 0) & (cols < source.width))


def _vector_rows(path: Path, drop_bad: bool) -> tuple[list[str], Iterator[tuple[str, Mapping[str, Any]]], Any]:
    """Return header, rows as a CSV gives them, with x and y, and the CRS; a bad geometry that is left out has none."""
    driver = {".gpkg": "GeoPackage", ".shp": "shapefile", ".fgb": "FlatGeobuf"}.get(path.suffix.lower(), "GeoJSON")
    try:
        with path.open("rb") as file:
            start = file.read(16)
        if driver == "GeoPackage" and not start.startswith(b"SQLite format 3\0"):
            raise LabelError(f"{path}: is no GeoPackage; write it again")
        if driver == "shapefile" and not start.startswith(b"\0\0\x27\x0a"):
            raise LabelError(f"{path}: is no shapefile; write it again")
        if driver == "FlatGeobuf" and not start.startswith(b"fgb\3"):
            raise LabelError(f"{path}: is no FlatGeobuf; write it again")
        if driver == "GeoJSON" and not start.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{"):
            raise LabelError(f"{path}: is no GeoJSON; write it again")
        meta, _, geometry, values = pyogrio.raw.read(str(path), layer=vector_files.only_layer(path))
    except OSError as error:
        raise LabelError(f"{path}: {error.strerror or error}; check the path") from error
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise LabelError(f"{path}: cannot be read as {driver} ({error}); write it again") from error
    fields = [_SHORT.get(str(name), str(name)) for name in meta["fields"]]
    if geometry is None:
        return fields, _records(fields, values), None
    shapes = shapely.from_wkb(geometry)
    one = (shapely.get_type_id(shapes) == shapely.GeometryType.MULTIPOINT) & (shapely.get_num_geometries(shapes) == 1)
    shapes[one] = shapely.get_geometry(shapes[one], 0)
    bad = np.flatnonzero(~np.isin(shapely.get_type_id(shapes), _SHAPES) | shapely.is_empty(shapes))
    if len(bad) and not drop_bad:
        raise LabelError(f"{path}: feature {bad[0] + 1} is no point or polygon; give one for each object")
    shapes[bad] = None
    centres = shapely.centroid(shapes)
    kept = [(name, each) for name, each in zip(fields, values, strict=True) if name not in _MAP]
    columns = [*(each for _, each in kept), shapely.get_x(centres), shapely.get_y(centres)]
    names = [*(name for name, _ in kept), *_MAP]
    return names, _records(names, columns), rasterio.CRS.from_string(meta["crs"]) if meta["crs"] else None


def _records(names: list[str], columns: list[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for index, values in enumerate(zip(*columns, strict=True)):
        yield f"feature {index + 1}", dict(zip(names, map(vector_files.as_text, values), strict=True))
