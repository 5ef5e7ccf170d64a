"""The metric's definition, object by object, on random scenes: independent of its code and of the official answers."""

import math

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from xt.data.labels import LabelTable
from xt.metrics.xview3 import XView3Score, score

Objects = list[dict]
COLUMNS = ("row", "column", "scene_id", "is_vessel", "is_fishing", "vessel_length_m", "confidence")


def table(rng: np.random.Generator, scene: str, blank: float) -> LabelTable:
    """Up to 11 objects within 1.5 km; a share of the answers is left blank."""
    num = int(rng.integers(0, 12))

    def some(values: np.ndarray) -> np.ndarray:
        return np.where(rng.random(num) < blank, np.nan, values)

    return LabelTable.build(
        num,
        row=rng.uniform(0, 150, num),
        column=rng.uniform(0, 150, num),
        scene_id=np.full(num, scene),
        is_vessel=some(rng.integers(0, 2, num)),
        is_fishing=some(rng.integers(0, 2, num)),
        vessel_length_m=some(rng.uniform(5, 900, num)),
        confidence=rng.choice(["HIGH", "MEDIUM", "LOW"], num),
        distance_from_shore_km=rng.choice([0.5, 2.0, 2.1, 9999.99], num),
    )


def objects(all_: LabelTable) -> Objects:
    names = (*COLUMNS, "distance_from_shore_km")
    return [{name: getattr(all_, name)[i] for name in names} for i in range(len(all_))]


def metres(a: dict, row: float, column: float) -> float:
    return 10 * math.hypot(a["row"] - row, a["column"] - column)


def pairs(found: Objects, real: Objects) -> list[tuple[dict, dict]]:
    """The cheapest assignment, in which what is farther than 200 m costs 99,999,990."""
    if not found or not real:
        return []
    cost = np.array([[metres(p, t["row"], t["column"]) for t in real] for p in found])
    cost[cost > 200] = 99_999_990
    return [(found[i], real[j]) for i, j in zip(*linear_sum_assignment(cost), strict=True) if cost[i, j] < 200]


def f1(hits: int, found: int, real: int) -> float:
    return 2 * hits / (found + real) if hits else 0.0


def flag(name: str, matched: list[tuple[dict, dict]]) -> float:
    hits = sum(p[name] == 1 and t[name] == 1 for p, t in matched)
    return f1(hits, sum(p[name] == 1 for p, _ in matched), sum(t[name] == 1 for _, t in matched))


def literal(found: Objects, real: Objects, shore: dict[str, np.ndarray], official: bool) -> dict[str, float]:
    matched, counts, near_counts = [], np.zeros(3, int), np.zeros(3, int)
    for scene in {p["scene_id"] for p in found} | ({t["scene_id"] for t in real} if not official else set()):
        ps, ts = ([each for each in objs if each["scene_id"] == scene] for objs in (found, real))
        low = [id(p) for p, t in pairs(ps, ts) if t["confidence"] == "LOW"]
        ps, ts = [p for p in ps if id(p) not in low], [t for t in ts if t["confidence"] != "LOW"]
        both = pairs(ps, ts)
        matched += both
        counts += len(both), len(ps), len(ts)
        near = [p for p in ps if any(0 < metres(p, *point) <= 2200 for point in shore.get(scene, ()))]
        close = [t for t in ts if t["distance_from_shore_km"] <= 2]
        if near and close:
            near_counts += len(pairs(near, close)), len(near), len(close)
    vessel = flag("is_vessel", [(p, t) for p, t in matched if t["is_vessel"] in (0, 1)])
    fishing = flag("is_fishing", [(p, t) for p, t in matched if t["is_vessel"] == 1 and t["is_fishing"] in (0, 1)])
    errors = []
    for p, t in matched:
        if not math.isnan(t["vessel_length_m"]):
            said, true = (0 if math.isnan(x) else min(x, 500) for x in (p["vessel_length_m"], t["vessel_length_m"]))
            errors.append(abs(said - true) / true)
    length = 1 - min(sum(errors) / len(errors), 1) if errors else 0.0
    loc, shore_f1 = f1(*counts), f1(*near_counts)
    return {
        "aggregate": loc * (1 + length + vessel + fishing + shore_f1) / 5,
        "loc_fscore": loc,
        "loc_fscore_shore": shore_f1,
        "vessel_fscore": vessel,
        "fishing_fscore": fishing,
        "length_acc": length,
    }


@pytest.mark.parametrize("official", [True, False])
def test_equals_its_definition_object_by_object(official: bool):
    best = XView3Score(*[0.0] * 6, 0, 0, 0).to_dict()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        found = LabelTable.concatenate([table(rng, scene, 0.1) for scene in "abc"])
        real = LabelTable.concatenate([table(rng, scene, 0.3) for scene in "abcd"])
        # A far point, and one that is an object's own place, which counts as far.
        shore = {scene: np.concatenate([rng.uniform(150, 320, (1, 2)), [[-300.0, -300.0]]]) for scene in "ab"}
        if len(found) and found.scene_id[0] == "a":
            shore["a"][1] = found.row[0], found.column[0]
        contours = {scene: [points[:1], points[1:]] for scene, points in shore.items()}
        got = score(found, real, contours, official).to_dict()
        for name, value in literal(objects(found), objects(real), shore, official).items():
            assert got[name] == pytest.approx(value, abs=1e-12), (seed, name)
            best[name] = max(best[name], value)
    assert min(best[name] for name in ("aggregate", "loc_fscore_shore", "fishing_fscore", "length_acc")) > 0.1
