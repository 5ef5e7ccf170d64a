"""Weights in ONNX files: folded, renamed and transposed ones give the maps of the model that was exported."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xt.errors import CheckpointError
from xt.models.onnx_files import read_onnx
from xt.models.region.timm_features import TimmFeatures

NAME = "mobilenetv3_small_050"


def exported(path: Path, weights: dict[str, Tensor], nodes: list[tuple[str, list[str], list[str]]] = ()) -> Path:
    """Write what an exporter leaves of a model: initializers, and nodes that use them."""
    onnx = pytest.importorskip("onnx")
    made = [onnx.helper.make_node(kind, given, out) for kind, given, out in nodes]
    tensors = [onnx.numpy_helper.from_array(value.numpy(), name) for name, value in weights.items()]
    graph = onnx.helper.make_graph(made, "g", [], [], initializer=tensors)
    onnx.save(onnx.helper.make_model(graph), str(path))
    return path


@pytest.fixture
def backbone() -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(NAME, features_only=True).eval()
    for each in model.modules():
        if isinstance(each, nn.BatchNorm2d):
            for values in (each.weight, each.bias, each.running_mean):
                nn.init.normal_(values.data, 1, 0.2)
            nn.init.uniform_(each.running_var, 0.5, 2)
    return model


def folded(model: nn.Module) -> tuple[dict[str, Tensor], list[tuple[str, list[str], list[str]]]]:
    """Batch norms go into the convolutions before them, which are named anew; equal biases are kept once."""
    weights: dict[str, Tensor] = {}
    nodes: list[tuple[str, list[str], list[str]]] = []
    convs = [each for each in model.modules() if isinstance(each, nn.Conv2d)]
    norms = iter([each for each in model.modules() if isinstance(each, nn.BatchNorm2d)])
    for number, conv in enumerate(convs):
        weight, bias = conv.weight.detach(), conv.bias
        if bias is None:
            norm = next(norms)
            gain = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
            weight, bias = weight * gain[:, None, None, None], norm.bias - norm.running_mean * gain
        name = f"onnx::Conv_{900 - number}"
        weights[name], weights[f"{name}b"] = weight, bias.detach()
        nodes.append(("Identity", [f"{name}b"], [f"same{number}"]))
        nodes.append(("Conv", [f"x{number}", name, f"same{number}"], [f"x{number + 1}"]))
    names = sorted(weights)  # in any order
    return {name: weights[name] for name in names}, nodes


def unet(model: nn.Module) -> tuple[dict[str, Tensor], list[Any]]:
    """A segmentation model whose names are kept, buffers behind parameters, without counts of batches."""
    encoder = {
        f"net.encoder.part_{key}": value for key, value in model.state_dict().items() if "num_batches" not in key
    }
    order = sorted(encoder, key=lambda key: "running" in key)
    return {key: encoder[key] for key in order} | {"net.decoder.0.weight": torch.ones(3, 3)}, []


@pytest.mark.parametrize("write", [folded, unet])
def test_the_encoder_gives_the_maps_of_the_exported_model(tmp_path: Path, backbone: nn.Module, write, caplog):
    path = exported(tmp_path / "w.onnx", *write(backbone))
    encoder = TimmFeatures(3, NAME, 64, weights=str(path)).eval()
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for got, want in zip(encoder(image), backbone(image), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert ("1 tensors beside the encoder are not used: net.decoder.0.weight" in caplog.text) == (write is unet)
    assert len(encoder.model.state_dict()) == len(backbone.state_dict())


def test_weights_are_turned_back_where_an_exporter_turned_them(tmp_path: Path):
    w = torch.arange(6.0).view(2, 3)
    nodes = [
        ("MatMul", ["x", "onnx::MatMul_7"], ["y"]),
        ("Add", ["fc.bias", "y"], ["z"]),
        ("MatMul", ["z", "own"], ["u"]),
    ]
    weights = {"fc.bias": torch.ones(2), "own": w.half(), "onnx::MatMul_7": w.T.contiguous(), "steps": torch.arange(3)}
    state = read_onnx(exported(tmp_path / "w.onnx", weights, nodes))
    assert list(state) == ["MatMul 0.1 (onnx::MatMul_7)", "Add 1.0 (fc.bias)", "MatMul 2.1 (own)"]
    assert torch.equal(state["MatMul 0.1 (onnx::MatMul_7)"], w)
    assert torch.equal(state["MatMul 2.1 (own)"], w)
    assert all(value.dtype == torch.float32 for value in state.values())


def test_what_does_not_fit_is_said(tmp_path: Path, backbone: nn.Module, monkeypatch: pytest.MonkeyPatch):
    weights, nodes = folded(backbone)
    path = str(exported(tmp_path / "w.onnx", weights, nodes[:-2]))
    with pytest.raises(CheckpointError, match="tensors instead of"):
        TimmFeatures(3, NAME, 64, weights=path)
    swapped = [nodes[index] for index in [2, 3, 0, 1, *range(4, len(nodes))]]
    exported(tmp_path / "w.onnx", weights, swapped)
    with pytest.raises(CheckpointError, match=r"tensor 3, Conv 3.1 \(onnx::Conv_900\), is \(16, 3, 3, 3\) instead of"):
        TimmFeatures(3, NAME, 64, weights=path)
    (tmp_path / "w.onnx").write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match="cannot be read as ONNX"):
        read_onnx(tmp_path / "w.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(CheckpointError, match=r"pip install 'xt\[onnx\]'"):
        read_onnx(tmp_path / "w.onnx")


def in_fp32(onnx: Any, graph: Any, shown: list[str]) -> None:
    """Let a graph in fp16 run in fp32, and give these values."""
    tensors = [*graph.initializer, *(a.t for node in graph.node for a in node.attribute if a.name == "value")]
    for each in tensors:
        if each.data_type == onnx.TensorProto.FLOAT16:
            wide = onnx.numpy_helper.to_array(each).astype(np.float32)
            each.CopyFrom(onnx.numpy_helper.from_array(wide, each.name))
    for cast in (a for node in graph.node for a in node.attribute if node.op_type == "Cast" and a.name == "to"):
        cast.i = onnx.TensorProto.FLOAT if cast.i == onnx.TensorProto.FLOAT16 else cast.i
    del graph.value_info[:]
    for name in shown:
        graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))


@pytest.mark.slow
@pytest.mark.parametrize("bands", [4, 6])
@pytest.mark.parametrize("level", ["l1c", "l2a"])
def test_clouds_of_landsat_and_sentinel_2(bands: int, level: str):
    """The encoder of DLR's ukis-csmask gives what onnxruntime computes inside the whole U-Net."""
    reason = "pip install --no-deps ukis-csmask onnxruntime (145 MB)"
    onnx, runtime = (pytest.importorskip(name, reason=reason) for name in ("onnx", "onnxruntime"))
    from importlib.util import find_spec

    package = find_spec("ukis_csmask")
    if package is None:
        pytest.skip(reason)
    path = Path(package.origin).parent / f"model_{bands}b_{level}.onnx"
    encoder = TimmFeatures(bands, "tf_efficientnet_b4", 256, weights=str(path)).eval()
    # It pads as for images of 380 px, whose maps are of odd size where the third stage begins; timm pads as this size asks.
    odd = encoder.model.blocks[2][0].conv_dw
    odd.forward = lambda x: F.conv2d(x, odd.weight, None, 2, 2, groups=odd.groups)
    model = onnx.load(str(path))
    shown = [f"/model/encoder/_blocks.{number}/Add_output_0" for number in (1, 5, 9, 21, 31)]
    in_fp32(onnx, model.graph, shown)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).normal(size=(1, bands, 256, 256)).astype(np.float32)
    with torch.no_grad():
        maps = encoder(torch.from_numpy(image))
    for got, want in zip(maps, session.run(shown, {"input": image}), strict=True):
        assert np.abs(got.numpy() - want).max() < 1e-5 * np.abs(want).max()
