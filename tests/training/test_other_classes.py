"""Training that starts from a model of other classes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from xt.cli.main import main
from xt.models.checkpoint import load_model

PARTS = {
    "region_encoder": {
        "class_path": "TimmFeatures",
        "init_args": {
            "name": "convnext_atto", "region_size": 32, "model_args": {"dims": [8, 8, 8, 8], "depths": [1, 1, 1, 1]},
        },
    },
    "context": "Identity", "context_dim": 8,
    "decoder": {"class_path": "UNet", "init_args": {"filters": [8, 8, 8], "out_stride": 4}},
}  # fmt: skip


def train(folder: Path, run: str, classes: list[str], code: int = 0, **model: Any) -> torch.nn.ModuleDict | None:
    values = {
        "seed_everything": len(run),  # each run begins with other weights
        "trainer": {"accelerator": "cpu", "max_steps": 1, "enable_progress_bar": False},
        "model": {"task": "SemanticSegmentation", "model": PARTS, "lr": 1e-12} | model,
        "data": {
            "class_path": "RasterPairsData",
            "init_args": {
                "root": str(folder), "classes": classes, "bands": ["a", "b", "c"], "validation": "2", "image_size": 32, "batch_size": 1,
            },
        },
    }  # fmt: skip
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(values))
    assert main(["train", str(path), "--run_dir", str(folder / run)]) == code
    return None if code else load_model(folder / run)[0].heads


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for folder, shape in (("images", (32, 32, 3)), ("masks", (32, 32))):
        (tmp_path / folder).mkdir()
        for name in "12":
            pixels = rng.integers(0, 255 if folder == "images" else 2, shape, np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
    return tmp_path


def test_heads_of_the_same_names_are_taken(images: Path, capsys: pytest.CaptureFixture[str]):
    old = train(images, "old", ["sea", "ship", "ice"])["mask"]
    model = str(images / "old/model")
    for classes, taken, words in (
        (
            ["ice", "fog", "sea", "cloud"],
            {0: 2, 2: 0},
            "heads of the classes ice, sea are taken; fog, cloud start anew",
        ),
        (["ice", "sea", "ship"], {0: 2, 1: 0, 2: 1}, "heads of the classes ice, sea, ship are taken\n"),
        (["ice", "sea"], {0: 2, 1: 0}, "heads of the classes ice, sea are taken\n"),
        (["fog", "cloud", "land"], {}, "heads of the classes (none) are taken; fog, cloud, land start anew"),
        (["sea", "ship", "ice"], {0: 0, 1: 1, 2: 2}, ""),
    ):
        capsys.readouterr()
        new = train(images, "run_" + "_".join(classes), classes, init_from=model)["mask"]
        told = capsys.readouterr().err
        assert words in told
        assert ("are taken" in told) == (words != "")
        for index in range(len(classes)):
            for parameter in ("weight", "bias"):
                rows = getattr(new, parameter)[index], getattr(old, parameter)
                same = [bool(torch.allclose(rows[0], each, atol=1e-9)) for each in rows[1]]
                assert same == [taken.get(index) == at for at in range(3)], (classes, index, parameter)


def test_parts_without_heads_say_nothing(images: Path, capsys: pytest.CaptureFixture[str]):
    train(images, "old", ["sea", "ship"])
    capsys.readouterr()
    given = {"init_from": str(images / "old/model"), "init_parts": ["decoder"]}
    train(images, "new", ["fog", "sea"], **given)
    assert "are taken" not in capsys.readouterr().err
