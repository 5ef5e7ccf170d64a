"""Pairs of many places are those of few."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from xt.metrics import matching


def places(num: int, side: float, seed: int, whole: bool = False) -> np.ndarray:
    found = np.random.default_rng(seed).random((num, 2)) * side
    return found.round() if whole else found


def best(found: np.ndarray, real: np.ndarray, limit: float) -> tuple[int, float]:
    """Number of pairs and sum of their distances, of the whole table."""
    distance = np.hypot(*(found[:, None] - real[None]).transpose(2, 0, 1))
    cost = np.where(distance > limit, 1e7, distance)
    chosen = cost[linear_sum_assignment(cost)]
    return int((chosen < limit).sum()), float(chosen[chosen < limit].sum())


@pytest.mark.parametrize("dense", [0, 50, 1 << 22])
@pytest.mark.parametrize("sizes", [(90, 70), (60, 100), (1, 60), (60, 1)])
@pytest.mark.parametrize("whole", [False, True])
def test_groups_are_assigned_as_all_at_once(
    dense: int, sizes: tuple[int, int], whole: bool, monkeypatch: pytest.MonkeyPatch
):
    """Whole pixels have equal places, and many that are equally far."""
    monkeypatch.setattr(matching, "DENSE", dense)
    for side, limit in ((30, 2.5), (60, 12.9), (1000, 5.1)):
        found, real = places(sizes[0], side, 1, whole), places(sizes[1], side, 2, whole)
        rows, cols = matching.assign(found, real, limit)
        assert (np.diff(rows) > 0).all()
        assert len(set(cols)) == len(cols)
        distances = np.hypot(*(found[rows] - real[cols]).T)
        assert (distances < limit).all()
        assert (len(rows), distances.sum()) == pytest.approx(best(found, real, limit))


@pytest.mark.parametrize("dense", [0, 50])
def test_what_is_as_far_as_the_limit_is_no_pair(dense: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(matching, "DENSE", dense)
    found, real = np.array([[0.0, 0.0], [40, 40], [90, 90]]), np.array([[5.0, 12], [40, 40], [90, 102.9999]])
    rows, cols = matching.assign(found, real, 13)
    assert (rows.tolist(), cols.tolist()) == ([1, 2], [1, 2])


def test_many_take_little_memory(monkeypatch: pytest.MonkeyPatch):
    tables: list[int] = []
    whole = matching.cdist

    def spy(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        tables.append(len(a) * len(b))
        return whole(a, b)

    monkeypatch.setattr(matching, "cdist", spy)
    found = places(4000, 3000, 1)
    rows, cols = matching.assign(found, found[::-1].copy(), 5)
    assert np.array_equal(rows, np.arange(4000))
    assert np.array_equal(cols, rows[::-1])
    assert max(tables) < 10_000
