"""Image classification from images in folders to a class on disk, through the real commands."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from xt.cli.main import main

COLORS = {"grass": (60, 160, 60), "sand": (200, 170, 90), "water": (40, 80, 170)}
SIZE = 64


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey noise with one patch, whose colour is the class; photos to validate are larger, and not square."""
    out = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, num in (("train", 8), ("val", 4)):
        for name, color in COLORS.items():
            folder = out / split / name
            folder.mkdir(parents=True)
            for i in range(num):
                pixels = rng.integers(80, 140, (SIZE, SIZE, 1)) + np.zeros((1, 1, 3), int)
                row, col = rng.integers(8, SIZE - 40, 2)
                pixels[row : row + 32, col : col + 32] = np.array(color) + rng.integers(-20, 20, (32, 32, 1))
                photo = Image.fromarray(pixels.astype(np.uint8))
                if split == "val":
                    around = Image.new("RGB", (5 * SIZE, 3 * SIZE))
                    around.paste(photo.resize((3 * SIZE, 3 * SIZE), Image.Resampling.NEAREST), (SIZE, 0))
                    photo = around
                photo.save(folder / f"{i}.png")
    return out


def config(folder: Path, root: Path, context: dict[str, object], decoder: str) -> Path:
    encoder = {
        "name": "convnext_atto",
        "region_size": 32,
        "model_args": {"dims": [16, 24, 32, 32], "depths": [1, 1, 1, 1], "drop_path_rate": 0.0},
        "norm": True,
    }
    model = {
        "region_encoder": {"class_path": "TimmFeatures", "init_args": encoder},
        "context": context,
        "context_dim": 32,
        "decoder": {"class_path": decoder},
        "region_batch": 64,
    }
    values = {
        "seed_everything": 1,
        "trainer": {"accelerator": "cpu", "max_epochs": 16, "check_val_every_n_epoch": 8, "enable_progress_bar": False},
        "model": {"task": "ImageClassification", "lr": 0.003, "weight_decay": 0.05, "warmup_steps": 5, "model": model},
        "data": {"class_path": "ImageFolderData", "init_args": {"root": str(root), "image_size": SIZE, "scale": 0.6}},
    }
    path = folder / "colors.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize(
    ("context", "decoder"),
    [({"class_path": "Mamba", "init_args": {"depth": 2}}, "ClassToken"), ({"class_path": "Identity"}, "Pooled")],
    ids=["Mamba", "Identity"],
)
def test_train_eval_predict(
    root: Path, tmp_path: Path, context: dict[str, object], decoder: str, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    assert main(["train", str(config(tmp_path, root, context, decoder)), "--run_dir", str(run)]) == 0
    assert main(["eval", str(run), "--json"]) == 0
    top1 = json.loads(capsys.readouterr().out.splitlines()[-1])["val/top1"]
    assert top1 > 0.9
    for name in COLORS:
        out = tmp_path / f"{name}.tif"
        assert main(["predict", str(root / "val" / name / "0.png"), "-m", str(run), "-o", str(out)]) == 0
        answer = json.loads(out.with_suffix(".json").read_text())
        assert answer["class"] == name
        assert sum(answer["scores"].values()) == pytest.approx(1, abs=1e-3)


def test_class_token_without_context_is_refused_before_training(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = config(tmp_path, root, {"class_path": "Mamba", "init_args": {"depth": 1}}, "ClassToken")
    assert main(["train", str(path), "--run_dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("xt: error: ")
    assert "context Mamba: the class token" in error
    assert not (tmp_path / "run").exists()


def test_other_classes_are_neither_scored_nor_gone_on_with(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path, run = config(tmp_path, root, {"class_path": "Identity"}, "Pooled"), tmp_path / "run"
    argv = ["train", str(path), "--run_dir", str(run), "--trainer.check_val_every_n_epoch", "1"]
    assert main([*argv, "--trainer.max_epochs", "1"]) == 0
    assert main(["eval", str(run)]) == 0
    kept = (run / "validation.json").read_text()
    renamed = tmp_path / "renamed"
    shutil.copytree(root, renamed)
    for split in ("train", "val"):
        (renamed / split / "grass").rename(renamed / split / "zgrass")
    assert main(["eval", str(run), "--data.root", str(renamed)]) == 2
    told = capsys.readouterr().err
    assert (
        "the data have the classes sand, water, zgrass, the model grass, sand, water; give them as it has them" in told
    )
    assert (run / "validation.json").read_text() == kept
    assert main([*argv, "--trainer.max_epochs", "2", "--data.root", str(renamed)]) == 2
    assert (
        "with the classes grass, sand, water, now the data have sand, water, zgrass; go on" in capsys.readouterr().err
    )
    (root / "train" / "grass" / "0.png").rename(tmp_path / "0.png")
    try:
        assert main([*argv, "--trainer.max_epochs", "2"]) == 0
    finally:
        (tmp_path / "0.png").rename(root / "train" / "grass" / "0.png")
    assert "was trained on 24 samples, now there are 23: it does not go on as it would have" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["decoder", "class"])
def test_what_cannot_be_learnt_is_told_before_training(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
):
    path = config(tmp_path, root, {"class_path": "Identity"}, "UNet" if what == "decoder" else "Pooled")
    if what == "class":
        root = tmp_path / "one"
        for split in ("train", "val"):
            (root / split / "grass").mkdir(parents=True)
            Image.new("RGB", (SIZE, SIZE)).save(root / split / "grass" / "a.png")
    assert main(["train", str(path), "--run_dir", str(tmp_path / "run"), "--data.root", str(root)]) == 2
    said = {"decoder": "UNet gives maps; for classes of images take Pooled or ClassToken", "class": "one class, grass"}
    told = capsys.readouterr().err
    assert said[what] in told
    assert told.count("\n") == 1
    assert not (tmp_path / "run").exists()
