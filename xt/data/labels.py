"""Tables of objects as xView3 writes them: labels and predictions in CSV, validated row by row."""

import csv
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xt.errors import LabelError, XTWarning, nearest

CONFIDENCES = ("HIGH", "MEDIUM", "LOW", "")
NO_SHORE_KM = 9999.99
CLASS = "class"
"""Column of an object's class."""
_TEXT = ("scene_id", "confidence", "label")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LabelTable:
    """Objects, one per row; every field is a column of equal length.

    Attributes:
        row: Row in the scene, pixels.
        column: Column in the scene, pixels.
        scene_id: Scene.
        is_vessel: 1, 0, or NaN for unknown.
        is_fishing: 1, 0, or NaN for unknown.
        vessel_length_m: Metres, or NaN for unknown.
        distance_from_shore_km: Kilometres; 9999.99 where there is no shore.
        confidence: HIGH, MEDIUM, LOW, or empty for predictions.
        score: Confidence of a prediction in 0..255; NaN for labels.
        label: Class of the object, where the task has classes of its own; else empty.
    """

    row: Floats
    column: Floats
    scene_id: npt.NDArray[np.str_]
    is_vessel: Floats
    is_fishing: Floats
    vessel_length_m: Floats
    distance_from_shore_km: Floats
    confidence: npt.NDArray[np.str_]
    score: Floats
    label: npt.NDArray[np.str_]

    @classmethod
    def build(cls, num: int, **columns: Any) -> "LabelTable":
        """Make a table of ``num`` rows; columns that are not given are unknown."""
        defaults: dict[str, Any] = {name: np.full(num, "") for name in _TEXT}
        defaults["distance_from_shore_km"] = np.full(num, NO_SHORE_KM)
        values: dict[str, Any] = {}
        for field in fields(cls):
            value = columns.get(field.name, defaults.get(field.name))
            array = np.full(num, np.nan) if value is None else np.asarray(value)
            values[field.name] = array.astype(np.str_ if field.name in _TEXT else np.float64).reshape(num)
        return cls(**values)

    def __len__(self) -> int:
        return len(self.row)

    @property
    def kinds(self) -> npt.NDArray[np.str_]:
        """What each object is: its class if it has one, else ``fishing``, ``vessel`` or ``other``."""
        vessel, fishing = self.is_vessel == 1, self.is_fishing == 1
        known = np.where(vessel & fishing, "fishing", np.where(vessel, "vessel", "other"))
        return np.where(self.label != "", self.label, known)

    def select(self, mask: npt.NDArray[Any]) -> "LabelTable":
        """Return the rows that a mask or an index array chooses."""
        return replace(self, **{field.name: getattr(self, field.name)[mask] for field in fields(self)})

    def scene(self, scene_id: str) -> "LabelTable":
        """Return the rows of a scene."""
        return self.select(self.scene_id == scene_id)

    @property
    def scenes(self) -> list[str]:
        """Scenes that have a row, sorted."""
        return sorted(set(self.scene_id.tolist()))

    @classmethod
    def concatenate(cls, tables: Sequence["LabelTable"]) -> "LabelTable":
        """Join tables row by row."""
        if not tables:
            return cls.build(0)
        return cls(**{field.name: np.concatenate([getattr(t, field.name) for t in tables]) for field in fields(cls)})


Columns = dict[str, tuple[str, Callable[[str], Any]]]
"""Column of a file → field of :class:`LabelTable`, and what parses the text."""


def number(low: float, required: bool) -> Callable[[str], float]:
    """Make a parser of finite numbers; where one is not required, an empty text is NaN."""

    def parse(text: str) -> float:
        if not text.strip() or text.strip().lower() == "nan":
            if required:
                raise ValueError("is empty")
            return math.nan
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"{text!r} is no number") from None
        if not math.isfinite(value) or value < low:
            raise ValueError(f"{text!r} is not a number ≥ {low:g}")
        return value

    return parse


def _flag(text: str) -> float:
    known = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0, "": math.nan, "nan": math.nan}
    try:
        return known[text.strip().lower()]
    except KeyError:
        raise ValueError(f"{text!r} is not True, False or empty") from None


def _scene(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text.strip()


def _confidence(text: str) -> str:
    if text.strip().upper() not in CONFIDENCES:
        raise ValueError(f"{text!r} is not HIGH, MEDIUM or LOW")
    return text.strip().upper()


SCENE: Columns = {"scene_id": ("scene_id", _scene)}
COMMON: Columns = {
    "detect_scene_row": ("row", number(0, required=True)),
    "detect_scene_column": ("column", number(0, required=True)),
    **SCENE,
    "is_vessel": ("is_vessel", _flag),
    "is_fishing": ("is_fishing", _flag),
    "vessel_length_m": ("vessel_length_m", number(0, required=False)),
}
_LABEL: Columns = COMMON | {
    "distance_from_shore_km": ("distance_from_shore_km", number(0, required=False)),
    "confidence": ("confidence", _confidence),
}
ATTRIBUTES: Columns = {name: each for name, each in _LABEL.items() if each[0] not in ("row", "column", "scene_id")}
"""What may be known of an object beside its place."""
_OWN: Columns = {name: (name, number(-0.5, required=True)) for name in ("row", "column")} | SCENE


def read_labels(path: Path | str, drop_bad: bool = False, column: str = CLASS) -> LabelTable:
    """Read a label CSV of xView3, or points of one's own in pixels, as :class:`~xt.data.points.PointsData` takes them.

    Args:
        path: File with the columns of xView3, or ``scene_id``, ``row``, ``column`` and what else is known.
        drop_bad: Leave bad rows out instead of failing.
        column: Names the class of an object, if it is there.

    Raises:
        LabelError: If the file or a column is missing, or rows are bad (up to 20 line numbers are given).
    """
    path, header = Path(path), set(read_csv(Path(path))[0])
    own = header >= {"row", "column"} and "detect_scene_row" not in header
    of_class: Columns = {column: ("label", str.strip)}
    return (
        sure(read_table(path, _OWN, drop_bad, ATTRIBUTES | of_class))
        if own
        else read_table(path, _LABEL, drop_bad, of_class)
    )


def sure(table: LabelTable) -> LabelTable:
    """Take objects without a confidence for sure (HIGH): the metric asks for objects that somebody was sure of."""
    return replace(table, confidence=np.where(table.confidence == "", "HIGH", table.confidence))


def read_table(path: Path, columns: Columns, drop_bad: bool, optional: Columns | None = None) -> LabelTable:
    """Read a CSV with these columns.

    Raises:
        LabelError: As :func:`read_labels`.
    """
    return as_table(*parse_rows(path, *read_csv(path), columns, optional or {}, drop_bad))


def read_csv(path: Path) -> tuple[list[str], Iterator[tuple[str, Mapping[str, Any]]]]:
    """Open a CSV file: its header, and rows with what to call each in an error.

    Raises:
        LabelError: If it cannot be read.
    """
    rows = _csv_rows(path)
    return list(next(rows)[1]), rows


def parse_rows(
    path: Path,
    header: Sequence[str],
    rows: Iterable[tuple[str, Mapping[str, Any]]],
    columns: Columns,
    optional: Columns,
    drop_bad: bool,
) -> tuple[int, dict[str, list[Any]]]:
    """Check and parse all rows.

    Args:
        path: The file, for errors.
        header: Its columns.
        rows: What to call a row in an error, and column → text.
        columns: Column → field and parser; all must be there.
        optional: Likewise for columns that may be missing.
        drop_bad: Leave bad rows out instead of failing.

    Returns:
        Number of rows, and field → values.

    Raises:
        LabelError: If a column is missing, or rows are bad (up to 20 are named).
    """
    problems: list[str] = []
    num = 0
    for column in columns:
        if column not in header:
            raise LabelError(f"{path}: no column {column!r}{nearest(column, header)}")
    wanted = {k: v for k, v in optional.items() if k in header} | columns
    parsed: dict[str, list[Any]] = {name: [] for name, _ in wanted.values()}
    for where, record in rows:
        values, problem = _parse(record, wanted)
        if problem:
            problems.append(f"{where}: {problem}")
            continue
        num += 1
        for name, value in values.items():
            parsed[name].append(value)
    if problems and not drop_bad:
        listed = "; ".join(problems[:20]) + ("; …" if len(problems) > 20 else "")
        raise LabelError(
            f"{path}: {len(problems)} bad rows ({listed}); mend or drop them (--drop-bad-labels; data.drop_bad_labels)"
        )
    if problems:
        text = f"{path}: {len(problems)} bad rows are left out, the first: {problems[0]}"
        warnings.warn(text, XTWarning, stacklevel=3)
    return num, parsed


def check_scenes(path: Path, labels: LabelTable, names: Sequence[str]) -> None:
    """Refuse labels that are those of other scenes: a model would learn that there is nothing.

    Raises:
        LabelError: If there are labels, and none names one of the scenes.
    """
    if len(labels) and not set(names) & set(labels.scenes):
        raise LabelError(
            f"{path}: none of its {len(labels)} objects lies in a scene; its scene_id {str(labels.scene_id[0])!r} is "
            f"the name of none, {names[0]!r} is one"
        )


def as_table(num: int, parsed: Mapping[str, Any]) -> LabelTable:
    """Make a table of parsed columns; where the distance to the shore is unknown there is none."""
    table = LabelTable.build(num, **parsed)
    shore = np.where(np.isnan(table.distance_from_shore_km), NO_SHORE_KM, table.distance_from_shore_km)
    return replace(table, distance_from_shore_km=shore)


def _csv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the header as the keys of a first row, then the rows."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            names = reader.fieldnames or []
            if "".join(names[:1]).lstrip().startswith("{"):
                raise csv.Error("it is JSON")
            yield "header", dict.fromkeys(names)
            for record in reader:
                yield f"line {reader.line_num}", record
    except FileNotFoundError:
        raise LabelError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelError(f"{path}: cannot be read as CSV ({error})") from error


def _parse(record: Mapping[str, Any], columns: Columns) -> tuple[dict[str, Any], str]:
    values = {}
    for column, (name, parse) in columns.items():
        text = record.get(column)
        if text is None:
            return {}, f"too few columns: no {column}"
        try:
            values[name] = parse(text)
        except ValueError as error:
            return {}, f"{column} {error}"
    return values, ""
