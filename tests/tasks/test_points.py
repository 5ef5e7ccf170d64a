"""From painted maps to points."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from xt.data.labels import LabelTable
from xt.errors import ConfigError
from xt.tasks.detection import PointDetection
from xt.tasks.objects import ObjectDetection
from xt.tasks.points import MIN_CENTER, Candidates, Thresholds, find_candidates, tune

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


def test_beside_missing_pixels_an_object_is_what_it_would_be_beside_dark_ones():
    task = PointDetection()
    maps = painted(40, 40, [(10, 10, 6, 6)])
    maps["vessel"][:, 12:] = maps["length"][:, 12:] = 0
    values = np.stack([maps[name] for name in NAMES])
    values[:, :, 16:] = 0
    missing = np.where(np.arange(40) < 16, values, np.nan)
    want, got = (
        task.find(lambda window, each=each: each[(slice(None), *window.slices)].copy(), 40, 40, "s")
        for each in (values, missing)
    )
    assert len(want) == 1
    for name in ("row", "column", "is_vessel", "is_fishing", "vessel_length_m", "score"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name), name)


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
        label=np.full(num, ""),
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


def test_scores_are_of_what_the_model_tells_within_the_tolerance():
    unknown = [np.nan] * 5
    truth = table(unknown, [1] * 5, unknown)
    near = table([160, 160, 160, 110, 110], unknown, unknown)
    near = replace(near, row=np.add(truth.row, [0, 0, 0, 8, 8]))
    scores = {}
    for tolerance in (5.0, 20.0):
        task = PointDetection(tolerance=tolerance)
        task.maps = ("center", "vessel")
        task._found, task._truth = [Candidates(near, np.full(5, 200.0), np.array(unknown))], [truth]
        scores[tolerance] = task.scores(SimpleNamespace(shoreline=None), tune=True)
        assert set(scores[tolerance]) == {"aggregate", "loc_fscore", "vessel_fscore"}
        assert (task.thresholds()["center"] >= 110) == (tolerance == 5)
    assert task.scores(SimpleNamespace(shoreline=None), tune=False)["loc_fscore"] == 0  # nothing was measured since
    assert scores[5.0]["loc_fscore"] == 6 / 8
    assert scores[20.0]["loc_fscore"] == 1
    with pytest.raises(ConfigError, match=r"task\.init_args\.tolerance is 0; it must be above 0 pixels"):
        PointDetection(tolerance=0)


def test_classes_are_read_beside_the_centre():
    rng = np.random.default_rng(3)
    maps = {"center": np.zeros((12, 15), np.float32), "class a": rng.random((12, 15)), "class b": rng.random((12, 15))}
    for row, col in ((0, 0), (6, 7), (11, 14)):
        maps["center"][row, col] = 200
    found = find_candidates(maps, "s")
    places = (slice(0, 2), slice(0, 2)), (slice(5, 8), slice(6, 9)), (slice(10, 12), slice(13, 15))
    want = np.array([[maps[name][at].mean() for name in ("class a", "class b")] for at in places])
    np.testing.assert_allclose(found.kinds, want)
    named = found.named(["x", "y"]).table.label.tolist()
    assert named == [("x", "y")[int(b > a)] for a, b in want]
    assert set(named) == {"x", "y"}
    assert find_candidates({name: 0 * each for name, each in maps.items()}).named(["x", "y"]).table.label.tolist() == []
    assert Candidates.concatenate([found, found]).kinds.shape == (6, 2)
    assert Candidates.concatenate([]).named(["x", "y"]).table.label.tolist() == []


def test_the_threshold_of_objects_is_that_of_the_best_classes():
    unknown = [np.nan] * 6
    truth = replace(table(unknown, unknown, unknown), label=np.array(["x", "x", "y", "y", "x", "y"]))
    found = table([160, 170, 160, 180, 120, 130], unknown, unknown)  # the last two have the wrong class
    kinds = np.array([[2, 1], [2, 1], [1, 2], [1, 2], [1, 2], [2, 1]])
    task = ObjectDetection()
    task.classes = ("x", "y")
    for tuned in (True, False):
        task._found, task._truth = [Candidates(found, np.array(unknown), np.array(unknown), kinds)], [truth]
        scores = task.scores(SimpleNamespace(), tune=tuned)
        assert scores["f1"] == scores["f1_x"] == scores["f1_y"] == pytest.approx(4 / 5)
        assert scores["loc_f1"] == 4 / 5
    assert task.thresholds() == {"center": 130, "class x": 130, "class y": 130}
    assert task.scores(SimpleNamespace(), tune=False) == {"f1": 0, "loc_f1": 0}  # nothing was measured since


def test_objects_of_classes_are_found_within_the_tolerance():
    unknown = [np.nan] * 2
    truth = replace(table(unknown, unknown, unknown), label=np.array(["x", "y"]))
    found = replace(table([200, 200], unknown, unknown), row=truth.row + 8)
    for tolerance, want in ((5.0, 0), (10.0, 1)):
        task = ObjectDetection(tolerance=tolerance)
        task.classes = ("x", "y")
        kinds = np.array([[2, 1], [1, 2]])
        task._found, task._truth = [Candidates(found, np.array(unknown), np.array(unknown), kinds)], [truth]
        assert task.scores(SimpleNamespace(), tune=False) == dict.fromkeys(("f1", "loc_f1", "f1_x", "f1_y"), want)
