import numpy as np
import pytest

from xt.data.labels import LabelTable
from xt.data.targets import detection_targets, untold

NAN = float("nan")


def table(*rows: tuple) -> LabelTable:
    row, column, vessel, fishing, length, confidence = zip(*rows, strict=True)
    return LabelTable.build(
        len(rows),
        row=row,
        column=column,
        is_vessel=vessel,
        is_fishing=fishing,
        vessel_length_m=length,
        confidence=confidence,
    )


def brute_force(points: list[tuple], size: int, sigma: float = 2) -> dict[str, np.ndarray]:
    """Pixel by pixel, from the definition."""
    out = {n: np.zeros((1, size, size)) for n in ("center", "vessel", "fishing", "length")}
    for r in range(size):
        for c in range(size):
            for row, col, vessel, fishing, length, _ in points:
                d = np.hypot(r - round(row), c - round(col))
                if max(abs(r - round(row)), abs(c - round(col))) <= 4 * sigma:
                    out["center"][0, r, c] = max(out["center"][0, r, c], round(255 * np.exp(-d * d / (2 * sigma**2))))
                for name, value in (
                    ("vessel", vessel),
                    ("fishing", fishing if vessel else 0),
                    ("length", length if vessel else 0),
                ):
                    if np.isnan(value) and d <= 7:
                        out[name][0, r, c] = -1 if name == "length" else 255
                    elif not np.isnan(value) and d <= 4 and value:
                        out[name][0, r, c] = value
    return out


@pytest.mark.parametrize("sigma", [2, 1.5, 5])
def test_equals_the_definition(sigma: float):
    points = [
        (10.2, 12.7, 1, 0, 40.0, "HIGH"),
        (30, 31, 1, 1, NAN, "HIGH"),
        (0, 39, 0, NAN, NAN, "MEDIUM"),
        (25, 5, NAN, NAN, 9.0, "HIGH"),
        (44, 20, 1, NAN, 20.0, "HIGH"),
    ]
    got, want = detection_targets(table(*points), 40, 40, sigma), brute_force(points, 40, sigma)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)
    assert (got["center"] == 255).sum() == 4  # the pixels of the objects alone, on which the loss calls a peak


def test_low_confidence_is_ignored_and_known_wins_over_unknown():
    low = detection_targets(table((20, 20, 1, 1, 30.0, "LOW")), 40, 40)
    assert low["center"][0, 20, 20] == 255
    assert low["vessel"][0, 20, 20] == low["fishing"][0, 20, 26] == 255
    assert low["length"][0, 20, 20] == -1
    near = detection_targets(table((20, 20, NAN, NAN, NAN, "HIGH"), (20, 23, 1, 0, 50.0, "HIGH")), 40, 40)
    assert near["vessel"][0, 20, 21] == 1
    assert near["fishing"][0, 20, 21] == 0
    assert near["length"][0, 20, 21] == 50


def test_no_objects_and_objects_outside():
    assert not any(t.any() for t in detection_targets(LabelTable.build(0), 8, 9).values())
    outside = detection_targets(table((-5, 4, 1, 1, 10.0, "HIGH"), (100, 100, 1, 1, 10.0, "HIGH")), 8, 8)
    assert outside["center"][0, 0, 4] > 0
    assert not outside["vessel"].any()


@pytest.mark.parametrize(
    ("objects", "names"),
    [
        ([(NAN, NAN, NAN, "HIGH"), (1, 1, 9, "LOW")], ("vessel", "fishing", "length")),
        ([(NAN, 1, 9, "HIGH"), (0, 0, 9, "HIGH")], ("fishing",)),
        ([(0, 0, 0, "HIGH"), (1, NAN, NAN, "HIGH")], ("fishing", "length")),
        ([(NAN, NAN, NAN, "HIGH"), (1, 0, 9, "HIGH")], ()),
    ],
)
def test_what_no_object_tells_is_named(objects: list[tuple], names: tuple[str, ...]):
    assert untold(table(*((5, 5, *each) for each in objects))) == names
