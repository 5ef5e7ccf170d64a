"""Every config builds on the meta device and, shrunk, runs steps through the real ``xt train``."""

from pathlib import Path

import pytest
import torch
import yaml

from xt.cli.main import main
from xt.models.factory import build_from_spec

ROOT = Path(__file__).parents[2]
XVIEW3 = sorted(path.name for path in (ROOT / "configs").glob("xview3_4096_*.yaml"))
HEADS = {"PointDetection": {"center": 1, "vessel": 1, "fishing": 1, "length": 1}, "SemanticSegmentation": {"mask": 2}}


# One that trains a part of a saved model has no model of its own; tests/training/test_two_phases.py trains it.
WHOLE = [path for path in sorted((ROOT / "configs").glob("*.yaml")) if "init_from:" not in path.read_text()]


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.name)
def test_builds_on_the_meta_device(path: Path):
    model = yaml.safe_load(path.read_text())["model"]
    spec = {"streaming": True, **model["init_args"]["model"], "heads": HEADS[model["class_path"]]}
    with torch.device("meta"):
        built = build_from_spec(spec)
    assert sum(p.numel() for p in built.parameters()) > 100_000


@pytest.mark.parametrize("name", XVIEW3)
def test_shrunk_xview3_config_trains(name: str, tmp_path: Path):
    data = tmp_path / "data"
    assert main(["synth", "xview3", str(data), "--scenes", "3", "--size", "200"]) == 0
    argv = [str(ROOT / "configs" / name), "--data.root", str(data), "--run_dir", str(tmp_path / "run")]
    argv += [
        "--data.image_size",
        "128",
        "--data.num_workers",
        "0",
        "--trainer.max_steps",
        "2",
        "--trainer.accelerator",
        "cpu",
    ]
    argv += ["--trainer.enable_progress_bar", "false", "--model.model.region_encoder.init_args.region_size", "64"]
    argv += [
        "--model.model.region_encoder.init_args.model_args",
        "{depths: [1, 1, 1, 1], embed_dim: 24}",
        "--model.model.context_dim",
        "128",
    ]
    assert main(["train", *argv]) == 0
    assert "train/loss" in (tmp_path / "run" / "metrics.csv").read_text()
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
