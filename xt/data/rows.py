"""Rows of tables, checked and parsed one by one."""

import csv
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xt.errors import LabelError, XTWarning, nearest

NAMED = 20
"""Rows that an error names at most."""
Columns = dict[str, tuple[str, Callable[[str], Any]]]
"""Column of a file → field of :class:`~xt.data.labels.LabelTable`, and what parses the text."""


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
        LabelError: If a column is missing, or rows are bad (some are named).
    """
    problems: dict[str, list[str]] = {}
    num = 0
    for column in columns:
        if column not in header:
            raise LabelError(f"{path}: no column {column!r}{nearest(column, header)}")
    wanted = {k: v for k, v in optional.items() if k in header} | columns
    parsed: dict[str, list[Any]] = {name: [] for name, _ in wanted.values()}
    for where, record in rows:
        values, problem = _parse(record, wanted)
        if problem:
            problems.setdefault(problem, []).append(where)
            continue
        num += 1
        for name, value in values.items():
            parsed[name].append(value)
    if problems:
        text = f"{path}: {sum(map(len, problems.values()))} bad rows ({_listed(problems)})"
        if not drop_bad:
            raise LabelError(f"{text}; mend or drop them (--drop-bad-labels; data.drop_bad_labels)")
        warnings.warn(f"{text} are left out", XTWarning, stacklevel=3)
    return num, parsed


def _listed(problems: Mapping[str, Sequence[str]]) -> str:
    """Say the problems, each once, with the rows that have it."""
    said, left = [], NAMED
    for problem, rows in problems.items():
        if left > 0:
            said.append(f"{', '.join(rows[:left])}{' and more' if len(rows) > left else ''}: {problem}")
            left -= len(rows)
    return "; ".join(said) + ("; …" if len(said) < len(problems) else "")


def _csv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the header as the keys of a first row, then the rows."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            names = reader.fieldnames or []
            if "".join(names[:1]).lstrip().startswith("{"):
                raise csv.Error("it is JSON")
            if twice := sorted({name for name in names if name and names.count(name) > 1}):
                raise LabelError(f"{path}: column {twice[0]!r} stands twice; keep one of them")
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
