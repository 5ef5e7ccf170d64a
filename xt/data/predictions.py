"""Tables of what was found, as xView3 wants them, or with classes."""

import csv
import math
from pathlib import Path

from xt.data import vector_files
from xt.data.labels import CLASS, COMMON, SCENE, LabelTable, read_table
from xt.data.rows import Columns, number, read_csv
from xt.errors import LabelError

COLUMNS = tuple(COMMON)


def read_predictions(path: Path | str, drop_bad: bool = False) -> LabelTable:
    """Read a submission CSV, or points of classes. A column ``score`` is optional; a point may lie outside its scene.

    Raises:
        LabelError: As :func:`~xt.data.labels.read_labels`, or if it is no CSV.
    """
    if Path(path).suffix.lower() in vector_files.SUFFIXES:
        wanted = Path(path).with_suffix(".csv").name
        raise LabelError(f"{path}: what was found is read from CSV; give {wanted}, which xt predict writes beside it")
    anywhere = {
        "detect_scene_row": ("row", number(-math.inf, required=True)),
        "detect_scene_column": ("column", number(-math.inf, required=True)),
    }
    what: Columns = SCENE | {CLASS: ("label", str.strip)} if CLASS in read_csv(Path(path))[0] else COMMON
    return read_table(Path(path), what | anywhere, drop_bad, {"score": ("score", number(-math.inf, required=False))})


def write_predictions(path: Path, table: LabelTable, of_classes: bool = False) -> None:
    """Write a submission CSV with a column ``score`` at the end; into a partial of :mod:`xt.files`.

    With ``of_classes`` there is the class of each object instead of vessel, fishing and length.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS[:3], *([CLASS] if of_classes else COLUMNS[3:]), "score"])
        for i in range(len(table)):
            numbers = [_text(getattr(table, name)[i]) for name in ("row", "column")]
            flags = [_boolean(getattr(table, name)[i]) for name in ("is_vessel", "is_fishing")]
            what = [table.label[i]] if of_classes else [*flags, _text(table.vessel_length_m[i])]
            writer.writerow([*numbers, table.scene_id[i], *what, _text(table.score[i])])


def _text(value: float) -> str:
    return "" if math.isnan(value) else repr(round(float(value), 4))


def _boolean(value: float) -> str:
    return "" if math.isnan(value) else str(bool(value))
