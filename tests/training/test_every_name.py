"""Every name that a config may hold trains a step through the real ``xt train``, given alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from small_runs import config as dense_config

from xt import plugins
from xt.cli.main import main
from xt.models.checkpoint import load_model
from xt.training.module import TrainingModule

NAMES = sorted(plugins.BUILTINS["context_encoders"])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image of each of two classes."""
    out = tmp_path_factory.mktemp("images")
    for split in ("train", "val"):
        for name, level in (("dark", 40), ("light", 200)):
            folder = out / split / name
            folder.mkdir(parents=True)
            pixels = np.random.default_rng(level).integers(level - 20, level + 20, (128, 128, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "0.png")
    return out


def config(folder: Path, root: Path, name: str) -> Path:
    encoder = {
        "name": "convnext_atto",
        "region_size": 32,
        "model_args": {"dims": [8, 8, 8, 8], "depths": [1, 1, 1, 1]},
    }
    model = {
        "region_encoder": {"class_path": "TimmFeatures", "init_args": encoder},
        "context": name,
        "context_dim": 128,
        "decoder": {"class_path": "Pooled"},
    }
    values = {
        "seed_everything": 1,
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 1,
            "limit_val_batches": 0,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
        },
        "model": {"task": "ImageClassification", "lr": 0.001, "warmup_steps": 0, "model": model},
        "data": {"class_path": "ImageFolderData", "init_args": {"root": str(root), "image_size": 128}},
    }
    path = folder / "step.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_context_trains_a_step_by_its_name(name: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain, before = TrainingModule.training_step, []

    def step(self: TrainingModule, *args: object) -> object:
        before.append({key: p.detach().clone() for key, p in self.model.context.named_parameters()})
        return plain(self, *args)

    monkeypatch.setattr(TrainingModule, "training_step", step)
    run = tmp_path / "run"
    assert main(["train", str(config(tmp_path, root, name)), "--run_dir", str(run)]) == 0
    assert len(before) == 1
    model = load_model(run / "model")[0]
    assert plugins.short_name(model.context.encoder) == name
    still = [key for key, p in model.context.named_parameters() if torch.equal(p, before[0][key])]
    assert still == []
    assert all(p.isfinite().all() for p in model.parameters())


def test_encoder_decoder_and_loss_train_a_step_by_their_names(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model = {"region_encoder": "Samba", "context": "Mamba", "context_dim": 16, "decoder": "UPerNet"}
    task = {"class_path": "PointDetection", "init_args": {"loss": "PaperDetectionLoss"}}
    trainer = {"accelerator": "cpu", "max_steps": 1, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    changes = {"model": {"task": task, "lr": 0.001, "warmup_steps": 0, "model": model}, "trainer": trainer}
    run = tmp_path / "run"
    assert main(["train", str(dense_config(tmp_path, scenes, **changes)), "--run_dir", str(run)]) == 0
    model = load_model(run / "model")[0]
    assert [plugins.short_name(each) for each in (model.region_encoder, model.decoder)] == ["Samba", "UPerNet"]
    assert all(p.isfinite().all() for p in model.parameters())
    changes["model"]["model"]["region_encoder"] = "TimmFeatures"
    assert main(["train", str(dense_config(tmp_path, scenes, **changes)), "--run_dir", str(tmp_path / "other")]) == 2
    assert capsys.readouterr().err.strip().endswith("small.yaml: model.model.region_encoder.name is missing")
