"""Thresholds of objects of several classes, chosen on validation."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from xt.data.labels import LabelTable
from xt.models.metadata import ModelMetadata
from xt.tasks.objects import ObjectDetection
from xt.tasks.points import Candidates

CLASSES = ("car", "tree", "boat")
DATA: Any = SimpleNamespace(classes=CLASSES)


def found(objects: list[tuple[float, str]]) -> Candidates:
    """A candidate every 100 rows, with its score and class."""
    rows = 100.0 * np.arange(len(objects))
    table = LabelTable.build(
        len(objects), row=rows, column=rows, scene_id=["a"] * len(rows), score=[s for s, _ in objects]
    )
    kinds = np.array([[float(name == each) for each in CLASSES] for _, name in objects])
    return Candidates(table, np.full(len(rows), np.nan), np.full(len(rows), np.nan), kinds)


def truth(objects: list[tuple[int, str]]) -> LabelTable:
    """Objects at the rows of candidates."""
    rows = np.array([100.0 * index for index, _ in objects])
    return LabelTable.build(
        len(objects),
        row=rows,
        column=rows,
        scene_id=["a"] * len(rows),
        label=[name for _, name in objects],
        confidence=["HIGH"] * len(rows),
    )


def measured(task: ObjectDetection, tune: bool) -> dict[str, float]:
    candidates = [
        (220.0, "car"),
        (150.0, "car"),
        (140.0, "car"),
        (90.0, "tree"),
        (80.0, "tree"),
        (60.0, "tree"),
        (105.0, "boat"),
    ]
    task._found, task._truth = [found(candidates)], [truth([(0, "car"), (3, "tree"), (4, "tree")])]
    return task.scores(DATA, tune)


def task() -> ObjectDetection:
    made = ObjectDetection()
    made.prepare(ModelMetadata("object-detection", ("a",), (0.0,), (1.0,), classes=CLASSES))
    return made


def test_each_class_has_the_threshold_that_suits_it():
    one = task()
    assert measured(one, tune=True) == {"f1": 2 / 3, "loc_f1": 6 / 7, "f1_car": 1, "f1_tree": 1, "f1_boat": 0}
    limits = one.thresholds()
    assert 150 <= limits["class car"] < 220
    assert 60 <= limits["class tree"] < 80
    assert "class boat" not in limits  # none is there to choose by


def test_a_saved_model_decides_as_it_was_measured():
    one, other = task(), ObjectDetection()
    scores = measured(one, tune=True)
    metadata = ModelMetadata("object-detection", ("a",), (0.0,), (1.0,), classes=CLASSES, thresholds=one.thresholds())
    other.prepare(ModelMetadata.from_dict(metadata.to_dict()))
    assert measured(other, tune=False) == scores
    assert other.thresholds() == one.thresholds()


def test_a_model_of_one_threshold_reads_as_before():
    old = ObjectDetection()
    old.prepare(
        ModelMetadata("object-detection", ("a",), (0.0,), (1.0,), classes=CLASSES, thresholds={"center": 145.0})
    )
    table = old.decide(found([(150.0, "car"), (140.0, "tree"), (146.0, "boat")]))
    assert table.label.tolist() == ["car", "boat"]
    assert old.thresholds() == {"center": 145.0}
    assert len(old.decide(found([]))) == 0


@pytest.mark.parametrize("scores", [[(200.0, "car")] * 2, [(55.0, "car")] * 2])
def test_of_equals_the_nearest_to_that_of_all_counts(scores: list[tuple[float, str]]):
    one = task()
    one._found, one._truth = [found(scores)], [truth([(0, "car"), (1, "car")])]
    assert one.scores(DATA, True)["f1"] == 1
    assert one.thresholds()["class car"] == one.thresholds()["center"] == (100 if scores[0][0] > 100 else 50)
