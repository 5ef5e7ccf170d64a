"""Which rows of a table are said to be bad, and how many of them."""

from pathlib import Path

import pytest

from xt.data.rows import number, parse_rows
from xt.errors import LabelError


def told(*texts: str) -> str:
    """What is said of rows with these numbers, counted from 1."""
    rows = [(str(index + 1), {"n": text}) for index, text in enumerate(texts)]
    with pytest.raises(LabelError) as error:
        parse_rows(Path("t.csv"), ["n"], rows, {"n": ("n", number(0, True))}, {}, False)
    return str(error.value).removeprefix("t.csv: ").partition("; mend")[0]


def named(start: int, num: int) -> str:
    return ", ".join(map(str, range(start, start + num)))


@pytest.mark.parametrize(
    ("counts", "parts"),
    [
        ((20,), [f"{named(1, 20)}: n 'a' is no number"]),
        ((21,), [f"{named(1, 20)} and more: n 'a' is no number"]),
        ((20, 1), [f"{named(1, 20)}: n 'a' is no number", "…"]),
        ((12, 8), [f"{named(1, 12)}: n 'a' is no number", f"{named(13, 8)}: n 'b' is no number"]),
        ((12, 9), [f"{named(1, 12)}: n 'a' is no number", f"{named(13, 8)} and more: n 'b' is no number"]),
        ((12, 9, 1), [f"{named(1, 12)}: n 'a' is no number", f"{named(13, 8)} and more: n 'b' is no number", "…"]),
    ],
)
def test_twenty_rows_are_named_of_all_problems_together(counts: tuple[int, ...], parts: list[str]):
    texts = [name for name, count in zip("abc", counts, strict=False) for _ in range(count)]
    assert told(*texts) == f"{sum(counts)} bad rows ({'; '.join(parts)})"


def test_not_a_number_is_an_empty_one():
    for text in ("", " ", "nan", "NaN", " NAN "):
        assert told(text) == "1 bad rows (1: n is empty)"
        assert number(0, False)(text) != number(0, False)(text)
