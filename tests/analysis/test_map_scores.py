"""Scores of maps, against torchmetrics and NumPy over whole arrays."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from map_files import NAMES, save, score
from torch import from_numpy
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_jaccard_index

from xt.analysis import map_scores
from xt.cli.main import main


@pytest.mark.parametrize("named", [True, False])
def test_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str], named: bool):
    rng = np.random.default_rng(0)
    found, true = rng.integers(0, 3, (2, 1030, 1041)).astype(np.uint8)
    found[:, 1000:1030] = true[:, 1000:1030]
    found[5, 7:20], true[9, 30:70], true[10, :9] = 255, 255, 7
    found_path = save(tmp_path / "found.tif", found, NAMES if named else None, nodata=255)
    truth = save(tmp_path / "true.tif", true, nodata=255)
    scores, told = score(capsys, found_path, truth, "--ignore", 7)
    counts = (found != 255) & (true != 255) & (true != 7)
    assert (scores["pixels"], scores["unsaid"]) == (counts.sum(), 13)
    assert f"13 pixels of {truth} do not count" in told
    pair = [from_numpy(each[counts].astype(np.int64)) for each in (found, true)]
    for metric, of in (("iou", multiclass_jaccard_index), ("f1", multiclass_f1_score)):
        values = of(*pair, num_classes=3, average=None).tolist()
        for name, number, value in zip(NAMES, "012", values, strict=True):
            assert scores[f"{metric}_{name if named else number}"] == pytest.approx(value, abs=1e-6)
        assert scores[metric] == pytest.approx(np.mean(values[1:]), abs=1e-6)
        everything, _ = score(capsys, found_path, truth, "--ignore", 7, "--no-background")
        assert everything[metric] == pytest.approx(np.mean(values), abs=1e-6)


def test_a_class_that_occurs_nowhere_has_no_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    found, true = np.array([[0, 1, 1, 0]], np.uint8), np.array([[0, 1, 0, 0]], np.uint8)
    scores, _ = score(capsys, save(tmp_path / "found.tif", found, NAMES), save(tmp_path / "true.tif", true))
    assert scores == {
        "iou": 1 / 2, "f1": 2 / 3, "iou_sea": 2 / 3, "iou_ship": 1 / 2, "f1_sea": 4 / 5, "f1_ship": 2 / 3,
        "pixels": 4, "unsaid": 0,
    }  # fmt: skip
    assert main(["score", str(tmp_path / "found.tif"), str(tmp_path / "true.tif")]) == 0
    assert capsys.readouterr().out.splitlines()[::6] == ["iou                0.5000", "pixels             4"]


def test_numbers_of_classes_may_be_any(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    found, true = np.array([[-3, 40000, 0, 2_000_000]], np.int32), np.array([[0, 40000, 0, 40000]], np.uint16)
    scores, _ = score(capsys, save(tmp_path / "found.tif", found), save(tmp_path / "true.tif", true))
    assert (scores["iou_0"], scores["iou_40000"], scores["iou_-3"], scores["f1_2000000"]) == (0.5, 0.5, 0, 0)


@pytest.mark.parametrize("bands", [1, 2])
def test_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str], bands: int):
    rng = np.random.default_rng(1)
    true = (rng.normal(0, 1, (bands, 1040, 30)) + np.array([5e6, -3][:bands])[:, None, None]).astype(np.float32)
    found = true + rng.normal(0.5, 1, true.shape).astype(np.float32)
    true[:, 20:25], true[-1, :1030], found[0, 3] = -9, -9, np.nan
    scores, _ = score(
        capsys, save(tmp_path / "found.tif", found, nodata=np.nan), save(tmp_path / "true.tif", true, nodata=-9)
    )
    for index in range(bands):
        counts = (true[index] != -9) & np.isfinite(found[index])
        a, b = (each[index][counts].astype(np.float64) for each in (found, true))
        want = {
            "r2": 1 - ((a - b) ** 2).sum() / ((b - b.mean()) ** 2).sum(), "rmse": np.sqrt(((a - b) ** 2).mean()),
            "mae": np.abs(a - b).mean(), "bias": (a - b).mean(),
        }  # fmt: skip
        ending = f"_{index + 1}" if bands == 2 else ""
        assert {name: scores[name + ending] for name in want} == pytest.approx(want, rel=1e-9)
    assert scores["unsaid"] == (30 if bands == 2 else 0)


def test_numbers_with_scale_and_offset_and_classes_beside_an_alpha_band(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    true = np.arange(20, dtype=np.float32).reshape(4, 5)
    path = save(tmp_path / "true.tif", ((true - 3) * 10).astype(np.int16))
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = [0.1], [3.0]
    scores, _ = score(capsys, save(tmp_path / "found.tif", true + 1), path)
    assert (scores["bias"], scores["rmse"]) == (pytest.approx(1), pytest.approx(1))
    classes = np.zeros((2, 4, 5), np.uint8)
    classes[0, :2], classes[1] = 1, 255
    with_alpha = save(tmp_path / "alpha.tif", classes, alpha="YES")
    scores, _ = score(capsys, save(tmp_path / "classes.tif", classes[0], NAMES), with_alpha)
    assert scores["pixels"] == 20
    assert scores["iou"] == 1


@pytest.mark.parametrize(
    ("truth", "options", "message"),
    [
        (np.zeros((4, 6), np.uint8), {}, "4 × 6 px, {found} has 4 × 5; they must be on one grid"),
        (np.zeros((4, 5), np.uint8), {"crs": "EPSG:32633"}, "another CRS than"),
        (np.zeros((4, 5), np.uint8), {"transform": rasterio.Affine(10, 0, 500_008, 0, -10, 5e6)}, "0.8 pixels away"),
        (np.zeros((4, 5), np.uint8), {"transform": rasterio.Affine(10.2, 0, 5e5, 0, -10, 5e6)}, None),
        (np.zeros((4, 5), np.uint8), {"crs": None}, None),
        (np.zeros((3, 4, 5), np.uint8), {}, "3 bands, {found} has 1; give one band of class indexes, or --colors"),
        (
            np.full((4, 5), 3, np.uint8),
            {},
            "value 3 is no class (0 … 2); mend the mask, or leave it out by --ignore 3",
        ),
        (np.full((4, 5), 2, np.uint8), {"nodata": 2}, "nothing is known"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], truth: np.ndarray, options: dict[str, Any], message: str | None
):
    found = save(tmp_path / "found.tif", np.zeros((4, 5), np.uint8), NAMES)
    _, told = score(capsys, found, save(tmp_path / "true.tif", truth, **options), code=0 if message is None else 3)
    assert message is None or message.format(found=found) in told


def test_options_of_points_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    found = save(tmp_path / "found.tif", np.zeros((4, 5), np.uint8), NAMES)
    options = "--official", "--tolerance=3", "--scene=a", "--drop-bad-labels", "--images=a.tif", "--shoreline=a"
    for option in options:
        assert f"{option.partition('=')[0]} is of points" in score(capsys, found, found, option, code=2)[1]
    points = tmp_path / "a.csv"
    points.write_text("scene_id,row,column\n")
    assert "--ignore is of maps" in score(capsys, points, points, "--ignore", 3, code=2)[1]
    assert "--colors is of maps" in score(capsys, points, points, "--colors", "1,2,3", code=2)[1]
    numbers = save(tmp_path / "numbers.tif", np.zeros((4, 5), np.float32))
    for option in ("--ignore=3", "--colors=1,2,3"):
        assert f"is of classes, {numbers} has numbers" in score(capsys, numbers, numbers, option, code=2)[1]


def test_pairs_that_are_sorted_are_those_that_are_counted(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(2)
    found, true = rng.integers(0, 5, 999), rng.integers(0, 9, 999)
    counted = map_scores._pairs(found, true)
    monkeypatch.setattr(map_scores, "FEW_PAIRS", 0)
    assert map_scores._pairs(found, true) == counted
    assert sum(counted.values()) == 999
    assert counted[(3, 8)] == ((found == 3) & (true == 8)).sum()


def test_classes_in_colours(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    colors = np.array([[[9, 9, 9], [0, 255, 0], [0, 255, 0], [255, 0, 7]]], np.uint8).transpose(2, 0, 1)
    found = save(tmp_path / "found.tif", np.array([[0, 1, 2, 2]], np.uint8), NAMES)
    scores, _ = score(capsys, found, save(tmp_path / "true.tif", colors), "--colors", "0,255,0", "255,0,7")
    assert (scores["iou_sea"], scores["iou_ship"], scores["iou_ice"]) == (1, 0.5, 0.5)
    _, told = score(capsys, found, tmp_path / "true.tif", "--colors", "0,255,0", code=2)
    assert "--colors has 1, " in told
    assert "found.tif has 3 classes; give one for each but the first" in told
    assert main(["score", str(found), str(found), "--colors", "green"]) == 2
    assert "'green' is not red, green and blue such as 0,255,0" in capsys.readouterr().err


def test_classes_of_several_bands_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    found = save(tmp_path / "found.tif", np.zeros((3, 4, 5), np.uint8))
    assert "class indexes are one band" in score(capsys, found, found, code=3)[1]


def test_what_is_no_number_is_null_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = save(tmp_path / "a.tif", np.full((4, 5), 2.0, np.float32))
    assert main(["score", str(path), str(path), "--json"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed, parse_constant=pytest.fail)["r2"] is None
