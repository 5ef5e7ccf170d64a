"""Tables of objects as xView3 writes them: labels and predictions in CSV, validated row by row."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xt.data.rows import Columns, number, parse_rows, read_csv
from xt.errors import LabelError

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
        LabelError: If the file or a column is missing, or rows are bad (some line numbers are given).
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
