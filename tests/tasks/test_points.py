"""From painted maps to points."""

import numpy as np
import pytest

from xt.data.labels import LabelTable
from xt.tasks.points import MIN_CENTER, Candidates, Thresholds, find_candidates, find_in_strips, tune

NAMES = ("center", "vessel", "fishing", "length")


def painted(height: int, width: int, objects: list[tuple[int, int, int, int]]) -> dict[str, np.ndarray]:
    """Maps with rectangles (row, column, height, width), each brightest in its middle, on a weak noise."""
    rng = np.random.default_rng(0)
    maps = {name: rng.uniform(0, 40, (height, width)).astype(np.float32) for name in NAMES}
    for index, (row, col, high, wide) in enumerate(objects):
        place = (slice(row, row + high), slice(col, col + wide))
        shape = maps["center"][place].shape
        maps["center"][place] = rng.uniform(MIN_CENTER + 5, 250, shape)
        maps["vessel"][place] = rng.uniform(60, 250, shape)
        maps["fishing"][place] = 200 * (index % 2)
        maps["length"][place] = 30 + index
    return maps


def strips(maps: dict[str, np.ndarray], strip: int) -> tuple[object, list[tuple[int, int]]]:
    asked = []

    def read(top: int, stop: int) -> dict[str, np.ndarray]:
        asked.append((top, stop))
        return {name: values[top:stop] for name, values in maps.items()}

    return find_in_strips(read, len(maps["center"]), "s", strip), asked


@pytest.mark.parametrize("strip", [16, 17, 32, 33, 200])
def test_strips_find_what_the_whole_finds(strip: int):
    objects = [(row, 6 * (row % 11), 1 + row % 7, 1 + row % 3) for row in range(0, 170, 9)]
    objects += [
        (30, 70, 36, 3),
        (14, 80, 4, 4),
        (15, 86, 1, 5),
        (16, 92, 2, 3),
        (31, 80, 2, 2),
        (48, 80, 3, 3),
        (3, 86, 10, 2),
    ]
    maps = painted(179, 100, objects)
    whole = find_candidates(maps, "s")
    found, asked = strips(maps, strip)
    assert len(whole.table) == len(found.table)
    order, other = (np.lexsort((t.column, t.row)) for t in (whole.table, found.table))
    for name in ("row", "column", "vessel_length_m", "score"):
        a, b = getattr(whole.table, name)[order], getattr(found.table, name)[other]
        np.testing.assert_allclose(a, b, rtol=1e-6, err_msg=name)
    np.testing.assert_array_equal(whole.vessel[order], found.vessel[other])
    np.testing.assert_array_equal(whole.fishing[order], found.fishing[other])
    assert max(stop - top for top, stop in asked) <= 5 * strip


def test_an_object_over_the_edge_of_a_strip_is_one():
    maps = painted(4200, 40, [(2044, 10, 9, 5), (4090, 20, 12, 3), (2047, 30, 1, 1)])
    found = find_in_strips(lambda top, stop: {name: values[top:stop] for name, values in maps.items()}, 4200)
    assert len(found.table) == 3


def test_an_object_of_more_than_four_strips_is_cut_and_memory_bounded():
    maps = painted(1000, 20, [(3, 5, 990, 2)])
    found, asked = strips(maps, 16)
    assert len(found.table) >= 1
    assert max(stop - top for top, stop in asked) <= 5 * 16


@pytest.mark.parametrize("missing", ["vessel", "fishing", "length"])
def test_a_map_that_is_missing_leaves_its_column_unknown(missing: str):
    maps = painted(40, 40, [(20, 20, 24, 24)])
    whole = find_candidates(maps).decide(Thresholds())
    part = find_candidates({name: each for name, each in maps.items() if name != missing}).decide(Thresholds())
    unknown = {"vessel": ["is_vessel", "is_fishing"], "fishing": ["is_fishing"], "length": ["vessel_length_m"]}[missing]
    assert len(part) == 1
    for name in ("row", "is_vessel", "is_fishing", "vessel_length_m"):
        value = float(getattr(part, name)[0])
        assert np.isnan(value) if name in unknown else value == getattr(whole, name)[0], name


def table(scores: list[float], vessel: list[float], fishing: list[float]) -> LabelTable:
    num = len(scores)
    return LabelTable(
        row=np.arange(num) * 100.0,
        column=np.full(num, 50.0),
        scene_id=np.full(num, "s"),
        is_vessel=np.array(vessel),
        is_fishing=np.array(fishing),
        vessel_length_m=np.full(num, 50.0),
        distance_from_shore_km=np.full(num, 9999.99),
        confidence=np.full(num, "HIGH"),
        score=np.array(scores),
    )


def test_tuned_thresholds_part_what_is_there_from_what_is_not():
    # Objects have centres above 150, vessels values above 170, boats that fish values above 60.
    truth = table([np.nan] * 6, [1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0])
    scores = [160, 220, 200, 180, 170, 160, 140, 120, 145, 130]
    vessel = np.array([200, 180, 240, 190, 165, 100, 0, 0, 0, 0.0])
    fishing = np.array([70, 90, 55, 52, 0, 0, 0, 0, 0, 0.0])
    nothing = [np.nan] * 10
    found = tune(Candidates(table(scores, nothing, nothing), vessel, fishing), truth)
    assert 140 <= found.center < 160
    assert 165 <= found.vessel < 180
    assert 55 <= found.fishing < 70


def test_thresholds_that_make_no_difference_stay_near_the_default():
    truth = table([np.nan] * 3, [1, 1, 0], [1, 0, 0])
    found = Candidates(
        table([250.0] * 3, [np.nan] * 3, [np.nan] * 3), np.array([240, 240, 0.0]), np.array([240, 0, 0.0])
    )
    assert tune(found, truth) == Thresholds()
