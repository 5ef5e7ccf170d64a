"""Batches of data modules of one's own: what is missing or of another type, shape or value is said in one line."""

from pathlib import Path
from typing import Any

import pytest
import torch

from xt.data.batches import check_batch, check_values
from xt.data.raster_pairs import RasterPairsData
from xt.errors import InputError


def batch(gives: str, **changed: Any) -> dict[str, Any]:
    found = {
        "image": torch.randn(2, 3, 8, 9),
        "valid": torch.ones(2, 1, 8, 9, dtype=torch.bool),
        "name": ["a", "b"],
        "mask": torch.randint(0, 3, (2, 8, 9)),
        "values": torch.randn(2, 4, 8, 9),
        "label": torch.tensor([0, 2]),
        "targets": {},
        "points": [],
        "scene_id": ["a", "b"],
        "origin": [(0, 0)] * 2,
    } | changed
    other = {"mask", "values", "label", "targets", "points", "scene_id", "origin"} - {gives}
    if gives == "points":
        other -= {"targets", "points", "scene_id", "origin"}
    return {key: value for key, value in found.items() if key not in other and value is not None}


@pytest.mark.parametrize("gives", ["mask", "values", "label", "points", "of my own"])
def test_what_is_right_passes(gives: str):
    check_batch(batch(gives), gives, 3, 4)
    check_values(batch(gives), gives, 3, -1)


@pytest.mark.parametrize(
    ("gives", "changed", "told"),
    [
        ("mask", {"valid": None}, r"a sample has no 'valid' \(it has image, name, mask\); give image, valid, name, mask"),
        ("points", {"origin": None}, "a sample has no 'origin'"),
        ("mask", {"image": torch.randn(2, 3, 8, 9).double()}, r"'image' of a sample is float64 \(3, 8, 9\); give float32"),
        ("label", {"image": torch.randn(2, 8, 9)}, r"'image' of a sample is float32 \(8, 9\); give float32 \(C, H, W\)"),
        ("mask", {"valid": torch.ones(2, 1, 8, 9)}, r"'valid' of a sample is float32 .*give bool \(1, H, W\)"),
        ("mask", {"valid": torch.ones(2, 3, 8, 9) > 0}, r"'valid' of a sample is \(3, 8, 9\) where .*8 × 9 px; give \(1, 8, 9\)"),
        ("mask", {"mask": torch.ones(2, 8, 9)}, r"'mask' of a sample is float32 \(8, 9\); give int64 \(H, W\)"),
        ("mask", {"mask": torch.zeros(2, 9, 8).long()}, r"'mask' of a sample is \(9, 8\) where"),
        ("values", {"values": torch.randn(2, 8, 9)}, r"'values' of a sample is float32 \(8, 9\); give float32 \(T, H, W\)"),
        ("values", {"values": torch.randn(2, 3, 8, 9)}, r"'values' of a sample is \(3, 8, 9\) where .*give \(4, 8, 9\)"),
        ("values", {"values": torch.randn(2, 4, 8, 8)}, "'values' of a sample is"),
        ("mask", {"image": torch.randn(2, 2, 8, 9)}, "'image' of a sample has 2 bands; the data module says 3"),
        ("label", {"label": ["x", "y"]}, r"'label' of a sample is list; give int64 \(\)"),
        ("label", {"label": torch.zeros(2, 1).long()}, r"'label' of a sample is int64 \(1,\)"),
    ],
)  # fmt: skip
def test_what_is_not_is_said(gives: str, changed: dict[str, Any], told: str):
    with pytest.raises(InputError, match=f"data: {told}"):
        check_batch(batch(gives, **changed), gives, 3, 4)


def test_values_that_cannot_be_are_said():
    holes = batch("mask")
    for odd in (torch.nan, -torch.inf):
        holes["image"][1, 2, 3, 4] = odd
        with pytest.raises(
            InputError, match="pixels of b are NaN or infinite; set them to 0, and valid to False there"
        ):
            check_values(holes, "mask", 3, -1)
    holes["image"][1, 2, 3, 4] = 1
    holes["valid"][1, 0, 2, 3] = False
    with pytest.raises(InputError, match="pixels of b are not 0 where valid is False"):
        check_values(holes, "mask", 3, -1)
    holes["image"] *= holes["valid"]
    check_values(holes, "mask", 3, -1)
    holes["mask"][0, 0, 0] = 255
    check_values(holes, "mask", 3, 255)
    for ignored in (-1, 254):
        with pytest.raises(InputError, match="'mask' has the class 255, and there are 3, from 0 on"):
            check_values(holes, "mask", 3, ignored)
    with pytest.raises(InputError, match="'label' has the class 2, and there are 2"):
        check_values(batch("label"), "label", 2, -1)
    with pytest.raises(InputError, match="'label' has the class -1"):
        check_values(batch("label", label=torch.tensor([-1, 0])), "label", 2, -1)


def pairs(folder: Path) -> RasterPairsData:
    return RasterPairsData(str(folder), bands=["p"], classes=["a", "b"], validation="v", image_size=8)


def test_a_data_module_looks_at_batches_before_they_are_used(tmp_path: Path):
    data = pairs(tmp_path)
    given = {
        "image": torch.zeros(1, 1, 8, 8), "valid": torch.ones(1, 1, 8, 8) > 0, "mask": torch.full((1, 8, 8), 2), "name": ["a"],
    }  # fmt: skip
    without = {key: value for key, value in given.items() if key != "valid"}
    with pytest.raises(InputError, match="a sample has no 'valid'"):
        data.transfer_batch_to_device(without, torch.device("cpu"), 0)
    with pytest.raises(InputError, match="'mask' has the class 2, and there are 2"):
        data.transfer_batch_to_device(given, torch.device("cpu"), 0)
    data.transfer_batch_to_device(given, torch.device("cpu"), 0)  # values are looked at once


def test_no_training_sample_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = pairs(tmp_path)
    monkeypatch.setattr(data, "dataset", lambda split: [])
    for _ in range(2):
        with pytest.raises(InputError, match="no training sample"):
            data.setup("fit")
