"""What ``config.json`` says to catalogues, against the metadata and against what the model does."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from xt.models.checkpoint import load_model, save_model
from xt.models.factory import build_from_spec
from xt.models.metadata import ModelMetadata
from xt.models.mlm import _name, _version
from xt.models.xt import XT

POINTS = ModelMetadata(
    "point-detection", ("VV_dB", "VH_dB"), (-40.0, -30.0), (15.0, 10.0), -32768.0, (), 64, 10.0, name="find it!"
)
MASKS = ModelMetadata(
    "semantic-segmentation", ("VV_dB", "VH_dB"), (1.5, 2.0), (3.0, 4.0), None, ("sea", "old ship"), 96
)
LABELS = ModelMetadata("classification", ("VV_dB", "VH_dB"), (1.5, 2.0), (3.0, 4.0), float("nan"), ("a", "b", "c"), 128)
CASES = {
    "detection": (POINTS, {"center": 1, "vessel": 1}, "UNet"),
    "semantic-segmentation": (MASKS, {"mask": 2}, "UNet"),
    "scene-classification": (LABELS, {"label": 3}, "Pooled"),
}


def build(heads: dict[str, int], decoder: str) -> XT:
    encoder = {
        "name": "convnext_atto",
        "in_chans": 2,
        "region_size": 64,
        "model_args": {"dims": [8] * 4, "depths": [1] * 4},
    }
    settings = {"filters": [8, 8, 8, 8]} if decoder == "UNet" else {}
    return build_from_spec(
        {
            "region_encoder": {"class_path": "TimmFeatures", "init_args": encoder},
            "context": {"class_path": "Identity"},
            "context_dim": 8,
            "decoder": {"class_path": decoder, "init_args": settings},
            "heads": heads,
        }
    ).eval()


@pytest.mark.parametrize("task", CASES)
def test_properties_of_a_stac_item(task: str, tmp_path: Path):
    metadata, heads, decoder = CASES[task]
    model = build(heads, decoder)
    save_model(tmp_path, model, metadata)
    block = json.loads((tmp_path / "config.json").read_text())["stac"]
    json.dumps(block, allow_nan=False)
    assert block["stac_extensions"] == ["https://stac-extensions.github.io/mlm/v1.5.0/schema.json"]
    said: dict[str, Any] = block["properties"]
    assert said["mlm:tasks"] == [task]
    assert (said["mlm:architecture"], said["mlm:framework"]) == ("xT", "PyTorch")
    assert re.fullmatch(r"\d+\.\d+\.\d+(\+[0-9A-Za-z.-]+)?", said["mlm:framework_version"])
    assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.-]+[a-zA-Z0-9]", said["mlm:name"])
    assert said["mlm:total_parameters"] == sum(each.numel() for each in load_model(tmp_path)[0].parameters())
    assert said["mlm:accelerator_constrained"] is False
    (image,) = said["mlm:input"]
    assert [band["name"] for band in image["bands"]] == list(metadata.bands) == [band["name"] for band in said["bands"]]
    scaling = [(each["type"], each["mean"], each["stddev"]) for each in image["value_scaling"]]
    assert scaling == [("z-score", mean, std) for mean, std in zip(metadata.mean, metadata.std, strict=True)]
    assert said["bands"][0].get("nodata") == {"detection": -32768.0, "scene-classification": "nan"}.get(task)
    assert said.get("gsd") == metadata.resolution
    shapes = {each["name"]: each["result"] for each in said["mlm:output"]}
    with torch.no_grad():
        batch = torch.zeros(1, *image["input"]["shape"][1:])
        found = model(batch)
    assert dict(zip(image["input"]["dim_order"], batch.shape, strict=True))["channel"] == 2
    assert shapes.keys() == found.keys()
    for name, values in found.items():
        assert shapes[name]["shape"] == [-1, *values.shape[1:]]
        assert len(shapes[name]["dim_order"]) == values.ndim
        assert str(values.dtype) == f"torch.{shapes[name]['data_type']}"
    for each in said["mlm:output"]:
        assert each["tasks"] == said["mlm:tasks"]
        classes = each.get("classification:classes", [])
        assert [(label["value"], label["description"]) for label in classes] == list(enumerate(metadata.classes))
        assert all(re.fullmatch(r"[0-9A-Za-z_-]+", label["name"]) for label in classes)


def test_what_an_older_version_wrote_is_read(tmp_path: Path):
    metadata, heads, decoder = CASES["detection"]
    save_model(tmp_path, build(heads, decoder), metadata)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["stac"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_model(tmp_path)[1] == metadata


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ("xt", "xt-model"),
        ("a b/c", "a-b-c"),
        ("3", "xt-3"),
        ("", "xt-model"),
        ("ships_1.2", "ships_1.2"),
        ("é", "xt-model"),
    ],
)
def test_names_are_such_as_the_extension_allows(given: str, want: str):
    assert _name(given) == want


def test_versions_are_semantic():
    assert [_version(each) for each in ("2.14.1", "2.14.1+cu130", "2.15.0a0+git1")] == [
        "2.14.1",
        "2.14.1+cu130",
        "2.15.0",
    ]
