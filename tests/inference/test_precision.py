import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from small_inputs import noise, raster, save

from xt.cli.main import main
from xt.data.source import Source
from xt.geometry.grid import RegionGrid, Window
from xt.inference import views
from xt.inference.precision import _warn_if_slow, computing
from xt.models.checkpoint import load_model
from xt.models.factory import build_from_spec
from xt.models.pyramid import FeaturePyramid
from xt.tasks.registry import task_of

SIZE = 150, 190
HEADS = {"head_dim": 8}


def predict(path: Path, model: Path, *more: str) -> np.ndarray:
    out = path.with_name("-".join(["o", *(each.strip("-") for each in more)]) + ".tif")
    assert main(["predict", str(path), "-m", str(model), "-o", str(out), *more]) == 0
    asked = more[more.index("--precision") + 1] if "--precision" in more else "fp32"
    assert json.loads(out.with_suffix(".report.json").read_text())["precision"] == asked
    with rasterio.open(out) as dataset:
        return dataset.read()


def far(found: np.ndarray, wanted: np.ndarray) -> float:
    """RMS of the difference over the standard deviation, of the worst band: roundings of single pixels differ by CPU."""
    rms = np.sqrt(((found - wanted) ** 2).mean(axis=(1, 2)))
    return float((rms / wanted.std(axis=(1, 2))).max())


@pytest.mark.parametrize(("context", "settings"), [("Mamba", {}), ("Hyper", HEADS), ("TransformerXL", HEADS)])
def test_bf16_gives_what_the_model_says_in_bf16(tmp_path: Path, context: str, settings: dict[str, int]):
    path = raster(tmp_path / "a.tif", noise(2, *SIZE))
    model = save(tmp_path / "m", "point-detection", 2, 256, context, **settings)
    network, metadata = load_model(model)
    pixels, valid = Source(path, metadata.inputs).read(Window(0, 0, *SIZE))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        raw = network(torch.from_numpy(pixels)[None], torch.from_numpy(valid)[None, None])
    task = task_of(metadata)
    want = task.paint(task.activate({name: each[0].float() for name, each in raw.items()}), valid)
    for more in ([], ["--context", "full"], ["--tta", "flips"]):
        found, exact = predict(path, model, "--precision", "bf16", *more), predict(path, model, *more)
        assert found.dtype == np.float32
        if "--tta" not in more:
            assert far(found, want) < 0.03
        assert 1e-3 < far(found, exact) < 0.1


@pytest.mark.parametrize("task", ["semantic-segmentation", "classification"])
def test_bf16_of_every_task(tmp_path: Path, task: str):
    path, model = raster(tmp_path / "a.tif", noise(2, *SIZE)), save(tmp_path / "m", task, 2, 128, "Mamba")
    found, exact = predict(path, model, "--precision", "bf16"), predict(path, model)
    assert found.dtype == exact.dtype
    assert (found == exact).mean() > 0.5 if task == "semantic-segmentation" else np.abs(found - exact).max() < 0.05


def test_what_stages_hand_on_stays_float32():
    encoder = {"name": "resnet10t", "in_chans": 2, "region_size": 64}  # its maps and the heads' convolutions are bf16
    parts = {
        "region_encoder": {"class_path": "TimmFeatures", "init_args": encoder},
        "context": {"class_path": "Identity"},
        "decoder": {"class_path": "UNet", "init_args": {"filters": [8, 8, 8, 8, 8]}},
    }
    model = build_from_spec(parts | {"context_dim": 16, "heads": {"mask": 3}}).eval()
    image = torch.randn(1, 2, 64, 64)
    with torch.inference_mode(), computing("bf16", model):
        assert {each.dtype for each in model.encode(image).maps} == {torch.bfloat16}
        maps = views.encode(model, image)
        assert {each.dtype for each in maps} == {torch.float32}
        said = views.decode(model, FeaturePyramid(image, maps, model.region_encoder.strides, RegionGrid(64, 64, 64)))
    assert {each.dtype for each in said.values()} == {torch.float32}


@pytest.mark.parametrize(("features", "words"), [({"avx2": True, "avx512bf16": False}, 1), ({"amx-bf16": True}, 0)])
def test_a_cpu_that_would_be_slow_is_told_of_once(
    features: dict[str, bool],
    words: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr("llvmlite.binding.get_host_cpu_features", lambda: features)
    _warn_if_slow.cache_clear()
    path, model = raster(tmp_path / "a.tif", noise(2, *SIZE)), save(tmp_path / "m", "point-detection", 2)
    predict(path, model, "--context", "full")
    assert "bfloat16" not in capsys.readouterr().err
    predict(path, model, "--precision", "bf16")
    predict(path, model, "--precision", "bf16", "--tta", "flips")
    _warn_if_slow.cache_clear()
    warned = [line for line in capsys.readouterr().err.splitlines() if "bfloat16" in line]
    said = "xt: warning: this cpu has no instructions for bfloat16, so bf16 takes many times as long; fp32 is faster"
    assert warned == [said] * words


def test_a_trial_computes_as_the_run_will(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, model = raster(tmp_path / "a.tif", noise(2, *SIZE)), save(tmp_path / "m", "point-detection", 2)
    asked: list[bool] = []
    plain = torch.nn.Conv2d.forward

    def forward(self: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        asked.append(plain(self, x).dtype == torch.bfloat16)
        return plain(self, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", forward)
    for more, wanted in ((["--precision", "bf16"], True), ([], False)):
        asked.clear()
        assert main(["predict", str(path), "-m", str(model), "-o", str(tmp_path / "o.tif"), "--dry-run", *more]) == 0
        assert asked
        assert all(each == wanted for each in asked)
