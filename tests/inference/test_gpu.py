"""Training steps and predicted scenes on a GPU, against those of a CPU."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from small_inputs import HEADS, noise, raster, save

from xt.inference import predict
from xt.inference.engine import RegionStore
from xt.inference.options import PredictOptions
from xt.losses.detection import DetectionLoss
from xt.models.checkpoint import load_model
from xt.models.xt import XT

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def gradients(model: XT, device: str, precision: torch.dtype) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    image = torch.randn(2, 2, 300, 200, generator=g).to(device)
    valid = torch.ones(2, 1, 300, 200, dtype=torch.bool, device=device)
    valid[0, :, :64, :64] = False
    flags = (torch.rand(2, 1, 300, 200, generator=g) < 0.01).to(torch.uint8).to(device)
    targets = {name: flags for name in HEADS["point-detection"] if name != "length"}
    targets |= {"length": 100 * flags.float(), "valid": valid}
    loss = DetectionLoss()
    model.zero_grad()
    with torch.autocast(device, precision, enabled=precision != torch.float32):
        total = loss.total(model.statistics(image, targets, loss.statistics, valid), 2)["loss"]
    total.backward()
    found = {name: each.grad.cpu() for name, each in model.named_parameters() if each.grad is not None}
    return found | {"loss": total.detach().cpu()}


CONTEXTS = {"Mamba": {"depth": 2}, "Hyper": {"head_dim": 8}, "TransformerXL": {"head_dim": 8}}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize(("precision", "limit"), [(torch.float32, 1e-2), (torch.bfloat16, 0.1)])
def test_a_training_step_has_the_gradients_of_a_cpu(tmp_path: Path, context: str, precision: torch.dtype, limit: float):
    saved = save(tmp_path / "m", "point-detection", 2, context=context, **CONTEXTS[context])
    model = load_model(saved)[0].train()
    want = gradients(model, "cpu", torch.float32)
    found = gradients(model.to("cuda"), "cuda", precision)
    assert found.keys() == want.keys()
    error = sum(float((found[name] - each).square().sum()) for name, each in want.items())
    assert error**0.5 < limit * sum(float(each.square().sum()) for each in want.values()) ** 0.5


@pytest.mark.parametrize("context", ["windows", "full"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_scene_is_what_a_cpu_makes_of_it_and_regions_stay_on_the_gpu(
    tmp_path: Path, context: str, precision: str, monkeypatch: pytest.MonkeyPatch
):
    rooms: list[int] = []
    plain = RegionStore.put

    def put(store: RegionStore, *args: object) -> None:
        rooms.append(store.room)
        plain(store, *args)

    monkeypatch.setattr(RegionStore, "put", put)
    monkeypatch.setattr(predict, "BUDGET", 0)
    image = raster(tmp_path / "a.tif", noise(2, 700, 900), nodata=0)
    model, metadata = load_model(save(tmp_path / "m", "point-detection", 2, context="Mamba", depth=2))
    found = []
    for device, asked in (("cpu", "fp32"), ("cuda", precision)):
        options = PredictOptions(context=context, precision=asked, overwrite=True)
        predict.predict_image(model.to(device), metadata, image, tmp_path / "o.tif", options)
        with rasterio.open(tmp_path / "o.tif") as dataset:
            found.append(dataset.read())
    assert np.nanstd(found[1] - found[0]) < (5e-3 if precision == "fp32" else 0.05) * np.nanstd(found[0])
    assert (np.isnan(found[0]) == np.isnan(found[1])).all()
    assert rooms[0] == 1
    assert rooms[-1] > 180
