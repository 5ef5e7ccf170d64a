import json
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from xt.cli.main import main
from xt.data.labels import LabelTable
from xt.data.predictions import write_predictions
from xt.metrics.xview3 import match, score


@pytest.mark.parametrize("case", ["case_a", "case_b"])
def test_equals_the_official_script(shared_data: Path, case: str, capsys: pytest.CaptureFixture[str]):
    folder = shared_data / "golden/xview3_metric" / case
    arguments = ["score", str(folder / "predictions.csv"), str(folder / "labels.csv")]
    assert main([*arguments, "--shoreline", str(folder / "shoreline"), "--official", "--json"]) == 0
    got = json.loads(capsys.readouterr().out)
    want = json.loads((folder / "expected.json").read_text())
    assert len(want) >= 6
    for name, value in want.items():
        assert got[name] == pytest.approx(value, abs=1e-9), name


def table(places: list[tuple[float, float]], scene: str = "s", **columns: object) -> LabelTable:
    num = len(places)
    given = {"is_vessel": np.ones(num), "is_fishing": np.zeros(num), "vessel_length_m": np.full(num, 50.0)}
    given["confidence"] = np.full(num, "HIGH")
    row, column = np.array(places).reshape(-1, 2).T
    return LabelTable.build(
        num,
        row=row,
        column=column,
        scene_id=np.full(num, scene),
        **(given | columns),
    )


def test_exactly_200_metres_is_no_match():
    assert len(match(table([(0, 0)]), table([(0, 20)]))[0]) == 0
    assert len(match(table([(0, 0)]), table([(0, 19.99)]))[0]) == 1


def test_an_object_is_found_within_the_tolerance(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    near = table([(0, 0), (50, 6)])
    labels = table([(0, 3), (50, 0)], distance_from_shore_km=np.zeros(2), confidence=np.array(["HIGH", "MEDIUM"]))
    shoreline = {"s": [np.array([[0.0, 40.0], [50.0, 40.0]])]}
    for tolerance, hits in ((2, 0), (3, 0), (4, 1), (6, 1), (7, 2)):
        result = score(near, labels, shoreline, tolerance=tolerance)
        assert result.true_positives == hits
        assert result.loc_fscore_shore == hits / 2
    low = table([(0, 3), (50, 0)], confidence=np.array(["LOW", "HIGH"]))
    assert score(near, low, tolerance=2).false_positives == 2
    assert score(near, low, tolerance=4).false_positives == 1
    write_predictions(tmp_path / "found.csv", near)
    (tmp_path / "there.csv").write_text("scene_id,row,column\ns,0,3\ns,50,0\n")
    argv = ["score", str(tmp_path / "found.csv"), str(tmp_path / "there.csv"), "--json"]
    for options, want in (([], 1), (["--tolerance", "4"], 0.5), (["--tolerance", "20", "--official"], 1)):
        assert main([*argv, *options]) == 0
        assert json.loads(capsys.readouterr().out)["loc_fscore"] == want
    for options, said in ((["4", "--official"], "--official has a tolerance of 20"), (["0"], "must be above 0 pixels")):
        assert main([*argv, "--tolerance", *options]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("bad", ["found.csv", "there.csv"])
def test_bad_rows_are_left_out_where_that_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: str):
    write_predictions(tmp_path / "found.csv", table([(0, 0)]))
    (tmp_path / "there.csv").write_text("scene_id,row,column\ns,0,3\n")
    with (tmp_path / bad).open("a") as file:
        file.write("here,there,s,,,,\n" if bad == "found.csv" else "s,here,there\n")
    argv = ["score", str(tmp_path / "found.csv"), str(tmp_path / "there.csv"), "--json"]
    assert main(argv) == 2
    assert f"{bad}: 1 bad rows (line 3: " in capsys.readouterr().err
    assert main([*argv, "--drop-bad-labels"]) == 0
    assert json.loads(capsys.readouterr().out)["loc_fscore"] == 1


def test_scene_without_predictions_counts_unless_official(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    labels = LabelTable.concatenate([table([(0, 0)]), table([(0, 0)], "t")])
    predictions = table([(0, 0)])
    assert score(predictions, labels, official=True).loc_fscore == 1
    honest = score(predictions, labels)
    assert (honest.true_positives, honest.false_negatives) == (1, 1)
    assert honest.loc_fscore == pytest.approx(2 / 3)
    write_predictions(tmp_path / "found.csv", predictions)
    (tmp_path / "there.csv").write_text("scene_id,row,column\ns,0,0\nt,0,0\n")
    argv = ["score", str(tmp_path / "found.csv"), str(tmp_path / "there.csv"), "--json"]
    for options, want, said in (
        ([], honest.loc_fscore, "1 of 2 labelled scenes have no prediction, such as t: their objects count as missed"),
        (["--official"], 1, "such as t: their objects do not count"),
        (["--scene", "s"], 1, ""),
    ):
        assert main([*argv, *options]) == 0
        told = capsys.readouterr()
        assert json.loads(told.out)["loc_fscore"] == want
        assert said in told.err
        assert ("no prediction" in told.err) == (said != "")


def test_matches_to_low_confidence_are_dropped():
    labels = table([(0, 0), (100, 100)], confidence=np.array(["LOW", "HIGH"]))
    result = score(table([(0, 0), (100, 100)]), labels)
    assert (result.true_positives, result.false_positives, result.false_negatives) == (1, 0, 0)


def test_unknown_truth_does_not_count():
    labels = table([(0, 0), (50, 50)], is_fishing=np.array([np.nan, 1]), vessel_length_m=np.array([np.nan, 100]))
    found = table([(0, 0), (50, 50)], is_fishing=np.array([1, 1]), vessel_length_m=np.array([1, 75]))
    result = score(found, labels)
    assert result.fishing_fscore == 1
    assert result.length_acc == pytest.approx(0.75)


def test_what_is_no_vessel_is_not_asked_whether_it_fishes():
    labels = table([(0, 0), (50, 50)], is_vessel=np.array([0, 1]), is_fishing=np.array([1, 1]))
    assert score(table([(0, 0), (50, 50)], is_fishing=np.array([0, 1])), labels).fishing_fscore == 1
    labels = table([(0, 0), (50, 50)], is_vessel=np.array([np.nan, 1]), is_fishing=np.array([0, 1]))
    assert score(table([(0, 0), (50, 50)], is_fishing=np.array([1, 1])), labels).fishing_fscore == 1


def test_empty_tables():
    nothing = LabelTable.build(0)
    assert score(nothing, nothing).aggregate == 0
    assert score(nothing, table([(0, 0)])).false_negatives == 1
    assert score(table([(0, 0)]), nothing).false_positives == 1


places = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=1, max_size=12, unique=True)


@settings(max_examples=40)
@given(places, places, st.randoms())
def test_order_of_rows_changes_nothing(found: list, real: list, random: object):
    before = score(table(found), table(real))
    random.shuffle(found)
    random.shuffle(real)
    after = score(table(found), table(real))
    assert before.loc_fscore == pytest.approx(after.loc_fscore)


@settings(max_examples=40)
@given(places)
def test_truth_scores_one(real: list):
    labels = table(real, is_fishing=np.ones(len(real)), distance_from_shore_km=np.ones(len(real)))
    shoreline = {"s": [np.array([[-1.0, -1.0], [400.0, 400.0], [150.5, 150.5], [0.5, 300.5], [300.5, 0.5]])]}
    result = score(labels, labels, shoreline)
    assert result.aggregate == pytest.approx(1)
