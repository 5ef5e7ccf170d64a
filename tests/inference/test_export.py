"""Exported files give what ``xt predict`` writes, and files that would not are not written."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import rasterio
import torch
from small_inputs import noise, raster, save
from torch import Tensor, nn

from xt import plugins
from xt.cli.main import main
from xt.geometry.grid import TokenLayout
from xt.inference.exported import ExportedModel
from xt.models.checkpoint import load_model, save_model
from xt.models.context.base import ContextEncoder
from xt.models.factory import build_from_spec
from xt.models.metadata import ModelMetadata

PAGE = (Path(__file__).parents[2] / "docs/export.md").read_text()
SIZE = (96, 70)
ARGUMENTS: dict[str, dict[str, Any]] = {
    "Mamba": {"depth": 1, "d_state": 2, "expand": 1},
    "Hyper": {"head_dim": 8, "depth": 1, "min_seq_len": 4, "block_size": 4, "sample_size": 3},
    "TransformerXL": {"head_dim": 8},
    "FullAttention": {"head_dim": 8},
    "LongNet": {"head_dim": 8},
    "MSA": {"head_dim": 8},
    "Mamba2": {"head_dim": 8},
    "RWKV": {"head_dim": 8},
    "Jamba": {"head_dim": 8, "depth": 2},
}
"""Of context encoders for 16 channels and the 12 tokens of an image."""


def image() -> np.ndarray:
    """An image with a corner that has no data."""
    pixels = noise(2, *SIZE)
    pixels[:, :10, :20] = np.nan
    return pixels


def exported(model: Path, out: Path, *options: str) -> Path:
    assert main(["export", str(model), "-o", str(out), "--size", f"{SIZE[0]}x{SIZE[1]}", *options]) == 0
    return out


def predicted(model: Path, folder: Path) -> np.ndarray:
    """Bands that ``xt predict`` writes of the image, in one window."""
    scene, out = raster(folder / "scene.tif", image()), folder / "predicted.tif"
    assert main(["predict", str(scene), "-m", str(model), "-o", str(out), "--tile", "128"]) == 0
    with rasterio.open(out) as dataset:
        return dataset.read()


def run(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path)
    (given,) = session.get_inputs()
    assert (given.name, given.type) == ("image", "tensor(float)")
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": images}), strict=True))


def of_the_page(what: str) -> dict[str, Any]:
    """Run the code of the page that imports this, in this folder, and return its names."""
    (code,) = [each for each in re.findall(r"```python\n(.*?)```", PAGE, re.S) if f"import {what}\n" in each]
    values: dict[str, Any] = {}
    exec(code, values)
    return values


def test_onnx_with_context_gives_the_pixels_of_a_prediction(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    folder = save(tmp_path / "model", "semantic-segmentation", 2, context="Mamba", **ARGUMENTS["Mamba"])
    path = exported(folder, tmp_path / "ships.onnx")
    assert re.fullmatch(
        r".*ships\.onnx: image 1 × 2 × 96 × 70 → probabilities 1 × 3 × 96 × 70, class 1 × 96 × 70\n"
        r"\d\.\d MB; differs from the model by \d\.\de-\d\d of the largest value\n",
        capsys.readouterr().out,
    )
    other = noise(2, *SIZE)[::-1]
    found = run(path, image()[None])
    np.testing.assert_array_equal(found["class"], predicted(folder, tmp_path))
    assert (found["class"][0, :10, :20] == 255).all()
    model, metadata = load_model(folder)
    with torch.no_grad():
        raw = model(torch.from_numpy(other[None] / np.float32(100)))["mask"]
    np.testing.assert_allclose(run(path, other[None])["probabilities"], raw.softmax(1).numpy(), atol=1e-4)

    monkeypatch.chdir(tmp_path)
    values = of_the_page("onnxruntime")
    assert capsys.readouterr().out.endswith("['a', 'b', 'c']\n")
    np.testing.assert_array_equal(values["classes"], found["class"])

    written = onnx.load(path)
    told = {each.key: each.value for each in written.metadata_props}
    assert json.loads(told["bands"]) == ["b0", "b1"]
    assert json.loads(told["classes"]) == ["a", "b", "c"]
    config = json.loads(told["config"])
    assert ModelMetadata.from_dict(config["metadata"]) == metadata
    assert build_from_spec(config["model"]).spec() == model.spec()
    assert config["stac"]["properties"]["mlm:name"]
    assert sum(node.op_type == "Scan" for node in written.graph.node) == 1  # of a layer, however many tokens
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()


def test_onnx_without_context_and_with_windows_of_swin(tmp_path: Path):
    encoder = {
        "name": "swinv2_t", "in_chans": 2, "region_size": 64,
        "model_args": {"embed_dim": 8, "depths": [2, 1], "num_heads": [2, 2]},
    }  # fmt: skip
    torch.manual_seed(0)
    model = build_from_spec(
        {
            "region_encoder": {"class_path": "TimmFeatures", "init_args": encoder},
            "context": {"class_path": "Identity"},
            "context_dim": 8,
            "decoder": {"class_path": "Pooled"},
            "heads": {"label": 3},
        }
    )
    metadata = ModelMetadata("classification", ("a", "b"), (40.0, 60.0), (20.0, 30.0), -1.0, ("x", "y", "z"), 64)
    save_model(tmp_path / "model", model, metadata)
    path = exported(tmp_path / "model", tmp_path / "a.onnx")
    pixels = np.nan_to_num(image(), nan=-1.0)
    found = run(path, pixels[None])
    predicted(tmp_path / "model", tmp_path)
    answer = json.loads((tmp_path / "predicted.json").read_text())
    np.testing.assert_allclose(found["scores"][0], list(answer["scores"].values()), atol=1e-4)
    assert "xyz"[int(found["class"][0])] == answer["class"]


def test_a_coarse_band_without_data_hides_no_pixel(tmp_path: Path):
    model, metadata = load_model(save(tmp_path / "model", "semantic-segmentation", 2))
    pixels = torch.from_numpy(noise(2, *SIZE))[None]
    pixels[0, 0, :10, :20], pixels[0, 1, 5:40] = torch.nan, torch.nan
    known = pixels.isfinite()
    valid = known[:, :1]
    with torch.no_grad():
        found = ExportedModel(model, replace(metadata, coarse=("b1",)), SIZE)(pixels)
        raw = model(torch.where(known & valid, pixels / 100, 0), valid)["mask"]
    assert (found["class"] == 255).equal(~valid[:, 0])
    torch.testing.assert_close(found["probabilities"], raw.softmax(1))


@pytest.mark.slow
def test_pt2_runs_without_our_operators(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    folder = save(tmp_path / "model", "point-detection", 2, context="Hyper", **ARGUMENTS["Hyper"])
    path = exported(folder, tmp_path / "vessels.pt2", "--batch", "any")
    extra = dict.fromkeys(("bands", "config", "xt_version"), "")
    program = torch.export.load(path, extra_files=extra)
    assert json.loads(extra["bands"]) == ["b0", "b1"]
    assert json.loads(extra["config"])["metadata"]["mlm:tasks"] == ["point-detection"]
    assert not [node for node in program.graph.nodes if str(node.target).startswith("xt.")]
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()
    both = program.module()(torch.from_numpy(np.stack([noise(2, *SIZE), image()])))
    found = program.module()(torch.from_numpy(image()[None]))
    torch.testing.assert_close(
        {name: each[1:] for name, each in both.items()}, found, rtol=1e-4, atol=1e-3, equal_nan=True
    )
    assert list(found) == ["center", "vessel", "fishing", "length"]
    maps = torch.cat(list(found.values())).numpy()
    np.testing.assert_allclose(maps, predicted(folder, tmp_path), rtol=1e-4, atol=1e-3)
    assert np.isnan(maps[:, :10, :20]).all()
    assert np.isfinite(maps[:, 10:]).all()
    monkeypatch.chdir(tmp_path)
    of_the_page("torch")
    assert capsys.readouterr().out.endswith('["b0", "b1"] torch.Size([1, 96, 70])\n')


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
@pytest.mark.parametrize("context", sorted(set(plugins.BUILTINS["context_encoders"]) - {"RSMamba"}))
def test_every_context_is_exported(context: str, suffix: str, tmp_path: Path):
    if (context, suffix) == ("MSA", "pt2"):
        pytest.skip("torch.export.load of torch 2.14 refuses it")
    folder = save(tmp_path / "model", "point-detection", 2, context=context, **ARGUMENTS.get(context, {}))
    exported(folder, tmp_path / f"a.{suffix}")


class Doubling(ContextEncoder):
    """Has an operator of its own."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim, self.scale = dim, nn.Parameter(torch.ones(1))

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        return double(tokens) * self.scale


@torch.library.custom_op("xt_tests::double", mutates_args=())
def double(x: Tensor) -> Tensor:
    """Twice x."""
    return 2 * x


@double.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Deciding(Doubling):
    """Looks at values."""

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        return tokens if tokens.mean() > 0 else -tokens


@pytest.mark.parametrize(
    ("context", "arguments", "said"),
    [
        ("Doubling", {}, "context encoder Doubling cannot be exported as ONNX, which has no operator xt_tests.double"),
        ("Deciding", {}, "context encoder Deciding cannot be exported: "),
        pytest.param(
            "RSMamba", {}, "context encoder RSMamba cannot be exported: it draws random numbers", marks=pytest.mark.slow
        ),
        ("Hyper", ARGUMENTS["Hyper"] | {"causal": True}, "context encoder Hyper cannot be exported: hyper_attention: "),
    ],
)
def test_what_cannot_be_exported_is_named(
    context: str, arguments: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    registered = plugins._registered | {"context_encoders": {"Doubling": Doubling, "Deciding": Deciding}}
    monkeypatch.setattr(plugins, "_registered", registered)
    folder = save(tmp_path / "model", "classification", 2, context=context, **arguments)
    assert main(["export", str(folder), "-o", str(tmp_path / "a.onnx")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"xt: error: {said}")
    assert error.count("\n") == 1
    assert [each.name for each in tmp_path.iterdir()] == ["model"]
