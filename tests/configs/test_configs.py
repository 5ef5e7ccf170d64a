"""Every config builds on the meta device and, shrunk, runs steps through the real ``xt train``."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import yaml
from PIL import Image

from scripts.ship_points import make
from xt.cli.main import main
from xt.models.factory import build_from_spec
from xt.models.xt import XT

ROOT = Path(__file__).parents[2]
XVIEW3 = sorted(path.name for path in (ROOT / "configs").glob("xview3_4096_*.yaml"))
HEADS = {
    "PointDetection": {"center": 1, "vessel": 1, "fishing": 1, "length": 1},
    "TokenDetection": {"center": 1, "vessel": 1, "fishing": 1, "length": 1},
    "PixelRegression": {"value": 1},
    "SemanticSegmentation": {"mask": 2},
    "ImageClassification": {"label": 284},
}
# Millions of parameters with SwinV2-T, as published, and how many more S, B and L have than T.
REPTILIA = {"none": 31, "hyper": 47, "mamba": 44, "xl": 47}
ENCODERS = {"swinv2_t": 0, "swinv2_s": 21, "swinv2_b": 59, "swinv2_l": 168}


ALL = sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))


def on_meta(name: str, encoder: str | None = None) -> XT:
    model = yaml.safe_load((ROOT / "configs" / name).read_text())["model"]
    task = model["task"] if isinstance(model["task"], str) else model["task"]["class_path"]
    heads = HEADS[task]
    spec = model["model"] | {"heads": heads}
    spec["region_encoder"]["init_args"]["in_chans"] = 2 if "center" in heads else 3
    if encoder:
        spec["region_encoder"]["init_args"]["name"] = encoder
    with torch.device("meta"):
        return build_from_spec(spec)


def millions(model: XT) -> float:
    return sum(p.numel() for p in model.parameters()) / 1e6


@pytest.mark.parametrize("name", ALL)
def test_builds_on_the_meta_device(name: str):
    assert millions(on_meta(name)) > 0.1


@pytest.mark.parametrize("context", REPTILIA)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_reptilia_models_have_the_published_sizes(context: str, encoder: str):
    got = millions(on_meta(f"inat_reptilia_512_256_{context}.yaml", encoder))
    assert abs(got - REPTILIA[context] - ENCODERS[encoder]) < 1


def train_shrunk(name: str, data: Path, run: Path, *options: str) -> None:
    """Take two steps with a small SwinV2 on two by two regions of 64 px."""
    encoder = "--model.model.region_encoder.init_args"
    argv = [str(ROOT / "configs" / name), "--data.root", str(data), "--run_dir", str(run), "--data.image_size", "128"]
    argv += ["--data.num_workers", "0", "--trainer.max_steps", "2", "--trainer.accelerator", "cpu"]
    argv += ["--trainer.enable_progress_bar", "false", f"{encoder}.region_size", "64"]
    argv += [f"{encoder}.model_args", "{depths: [1, 1, 1, 1], embed_dim: 24}", "--model.model.context_dim", "128"]
    assert main(["train", *argv, *options]) == 0
    assert "train/loss" in (run / "metrics.csv").read_text()
    assert (run / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", XVIEW3)
def test_shrunk_xview3_config_trains(name: str, tmp_path: Path):
    data = tmp_path / "data"
    assert main(["synth", "xview3", str(data), "--scenes", "3", "--size", "200"]) == 0
    train_shrunk(name, data, tmp_path / "run")


@pytest.mark.parametrize("context", REPTILIA)
def test_shrunk_reptilia_config_trains(context: str, tmp_path: Path):
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(4)]
    for image in images:
        pixels = np.random.default_rng(image["id"]).integers(0, 255, (130, 140, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / image["file_name"])
    content = {
        "images": images,
        "annotations": [{"image_id": i, "category_id": i % 2} for i in range(4)],
        "categories": [{"id": i, "name": f"species {i}", "supercategory": "Reptilia"} for i in range(2)],
    }
    for split in ("train", "val"):
        (tmp_path / f"{split}2018.json").write_text(json.dumps(content))
    name = f"inat_reptilia_512_256_{context}.yaml"
    train_shrunk(name, tmp_path, tmp_path / "run", "--data.batch_size", "2")


def test_shrunk_ship_points_config_trains(tmp_path: Path):
    for name in ("P0005_a", "P0005_b", "P0007_a", "P0021_a"):
        mask = np.zeros((80, 90, 3), np.uint8)
        mask[20:24, 30:50] = (0, 255, 0)
        for kind, values, suffix in (("images", mask // 2 + 20, "jpg"), ("masks", mask, "png")):
            (tmp_path / "in" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(tmp_path / "in" / kind / f"{name}.{suffix}")
    assert make(tmp_path / "in", tmp_path / "data") == 4
    run = tmp_path / "run"
    argv = [str(ROOT / "configs/ship_points.yaml"), "--data.root", str(tmp_path / "data"), "--run_dir", str(run)]
    argv += ["--data.image_size", "64", "--data.validation_tile", "96", "--trainer.max_steps", "2"]
    argv += ["--model.model.region_encoder.init_args.region_size", "32", "--trainer.enable_progress_bar", "false"]
    assert main(["train", *argv]) == 0
    assert main(["eval", str(run), "--split", "test"]) == 0
    assert "test/loc_fscore" in json.loads((run / "test.json").read_text())


def test_shrunk_ndvi_config_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pixels = np.random.default_rng(0).integers(1, 255, (4, 150, 250), np.uint8)
    pixels[3] = pixels[0] // 2 + 90
    grid = {"crs": "EPSG:32614", "transform": rasterio.Affine(5, 0, 0, 0, -5, 0)}
    with rasterio.open(
        tmp_path / "naip.tif", "w", driver="GTiff", count=4, height=150, width=250, dtype="uint8", **grid
    ) as out:
        out.write(pixels)
    subprocess.run(
        [sys.executable, ROOT / "scripts/ndvi_pairs.py", tmp_path / "naip.tif", tmp_path / "data"], check=True
    )
    run = tmp_path / "run"
    argv = [str(ROOT / "configs/regression_ndvi.yaml"), "--data.root", str(tmp_path / "data"), "--run_dir", str(run)]
    argv += ["--data.image_size", "64", "--trainer.max_steps", "2", "--trainer.enable_progress_bar", "false"]
    argv += ["--model.model.region_encoder.init_args.region_size", "32"]
    assert main(["train", *argv]) == 0
    assert main(["eval", str(run), "--split", "test"]) == 0
    assert list(json.loads((run / "test.json").read_text())) == [
        f"test/{name}" for name in ("r2", "rmse", "mae", "bias")
    ]
