"""Training that starts from a model of other classes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

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


def train(
    folder: Path, run: str, classes: list[str], code: int = 0, data: dict[str, Any] | None = None, **model: Any
) -> torch.nn.ModuleDict | None:
    values = {
        "seed_everything": len(run),  # each run begins with other weights
        "trainer": {"accelerator": "cpu", "max_steps": 1, "enable_progress_bar": False},
        "model": {"task": "SemanticSegmentation", "model": PARTS, "lr": 1e-12} | model,
        "data": data or {
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


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_weights_may_be_of_another_type(images: Path, precision: str):
    """Lightning turns batches into it before they are looked at."""
    train(images, "old", ["sea", "ship"])
    argv = ["train", str(images / "small.yaml"), "--run_dir", str(images / "new"), "--trainer.precision", precision]
    assert main(argv) == 0
    kind = torch.bfloat16 if precision == "bf16-true" else torch.float64
    saved = load_file(images / "new/model/model.safetensors")
    assert {value.dtype for name, value in saved.items() if name.startswith("heads")} == {kind}


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


def test_targets_are_taken_by_name_too(images: Path, capsys: pytest.CaptureFixture[str]):
    rng = np.random.default_rng(1)
    (images / "values").mkdir()
    for name in "12":
        values = {"driver": "GTiff", "height": 32, "width": 32, "count": 2, "dtype": "float32"}
        with rasterio.open(images / f"values/{name}.tif", "w", **values) as out:
            out.write(rng.normal(size=(2, 32, 32)).astype(np.float32))

    def learn(run: str, targets: list[str], code: int = 0, **model: Any) -> torch.nn.ModuleDict | None:
        data = {
            "class_path": "RasterValuesData",
            "init_args": {
                "root": str(images), "targets": targets, "bands": ["a", "b", "c"], "validation": "2", "image_size": 32, "batch_size": 1,
            },
        }  # fmt: skip
        return train(images, run, [], code, data, task="PixelRegression", **model)

    old, model = learn("old", ["height", "slope"])["value"], str(images / "old/model")
    capsys.readouterr()
    new = learn("new run", ["slope", "light"], init_from=model)["value"]
    assert "heads of the targets slope are taken; light start anew" in capsys.readouterr().err
    for parameter in ("weight", "bias"):
        kept, begun = getattr(new, parameter)
        assert torch.allclose(kept, getattr(old, parameter)[1], atol=1e-9)
        assert not any(torch.allclose(begun, each, atol=1e-9) for each in getattr(old, parameter))
    assert main(["eval", str(images / "old"), "--data.targets", "[slope,height]"]) == 2
    assert "the data have the targets slope, height, the model height, slope; give them" in capsys.readouterr().err


def test_other_bands_and_other_heads_are_told(images: Path, capsys: pytest.CaptureFixture[str]):
    train(images, "old", ["sea", "ship"])
    capsys.readouterr()
    given = [
        "train",
        str(images / "small.yaml"),
        "--run_dir",
        str(images / "new"),
        "--model.init_from",
        str(images / "old"),
    ]
    assert main([*given, "--data.bands", "[b,a,c]"]) == 0
    assert "was trained on the bands a, b, c, now they are b, a, c; give them in its order" in capsys.readouterr().err
    assert main([*given, "--fresh", "--model.model.context_dim", "16"]) == 2
    assert "leave context out of model.init_parts, or choose the same" in capsys.readouterr().err
