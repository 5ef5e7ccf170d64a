"""Every task learns four fixed samples by heart, with a small backbone and with SwinV2."""

from typing import Any

import pytest
import torch
from torch import Tensor

from xt.cli.main import main
from xt.data.loading import collate
from xt.data.xview3 import XView3Data
from xt.losses.detection import DetectionLoss, PaperDetectionLoss, PointLoss
from xt.models.context.mamba import Mamba
from xt.models.decoders.pooled import ClassToken
from xt.models.decoders.unet import UNet
from xt.models.factory import ModelConfig
from xt.models.metadata import ModelMetadata
from xt.models.region.timm_features import TimmFeatures
from xt.models.xt import XT
from xt.tasks.base import Task
from xt.tasks.classification import ImageClassification
from xt.tasks.detection import PointDetection
from xt.tasks.segmentation import SemanticSegmentation

SIZE, REGION = 128, 64
BACKBONES = {
    "convnext": ("convnext_atto", {"dims": [16, 32, 64, 64], "depths": [1, 1, 1, 1], "drop_path_rate": 0.0}),
    "swinv2": ("swinv2_t", {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 2], "drop_path_rate": 0.0}),
}


def parts(backbone: str, dense: bool) -> ModelConfig:
    torch.manual_seed(0)
    name, arguments = BACKBONES[backbone]
    decoder = (lambda inputs: UNet(inputs, [16, 24, 32, 48], 4)) if dense else ClassToken

    def encoder(in_chans: int) -> TimmFeatures:
        return TimmFeatures(in_chans, name, REGION, model_args=arguments, norm=True)

    return ModelConfig(encoder, lambda dim: Mamba(dim, depth=2), decoder, 32, region_batch=16, streaming=False)


def start(task: Task, config: ModelConfig, classes: int = 0) -> XT:
    """Build a model for a task, as training does."""
    names = tuple(map(str, range(classes)))
    task.prepare(ModelMetadata(task.kind, ("a", "b"), (0.0, 0.0), (1.0, 1.0), classes=names))
    model = config.build(2, task.heads)
    for name, bias in task.biases().items():
        torch.nn.init.constant_(model.heads[name].bias, bias)
    task.attach(model)
    return model


def overfit(task: Task, model: XT, batch: dict[str, Any], steps: int, lr: float = 4e-3) -> dict[str, float]:
    """Train on one batch; return the last losses."""
    both = torch.nn.ModuleList([model, task])
    optimizer = torch.optim.AdamW(both.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    losses: dict[str, Tensor] = {}
    for _ in range(steps):
        losses = task.losses(model, batch)
        optimizer.zero_grad()
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(both.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    return {name: value.item() for name, value in losses.items()}


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two crops with vessels that fish, two with others."""
    root = tmp_path_factory.mktemp("crops") / "data"
    assert main(["synth", "xview3", str(root), "--scenes", "6", "--size", "512", "--seed", "1"]) == 0
    data = XView3Data(str(root), image_size=SIZE, centred=1.0)
    data.setup("fit")
    dataset = data.datasets["train"]
    samples: dict[bool, list[Any]] = {True: [], False: []}
    for index in range(len(dataset)):
        sample = dataset[0, index]
        asked = (sample["targets"]["vessel"] == 1) & (sample["targets"]["fishing"] != 255)
        if asked.any():
            samples[bool((sample["targets"]["fishing"][asked] == 1).any())].append(sample)
    return collate([*samples[True][:2], *samples[False][:2]])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_detection(crops: dict[str, Any], backbone: str):
    task = PointDetection()
    losses = overfit(task, start(task, parts(backbone, dense=True)), crops, 110)
    assert losses["center"] < 0.35
    assert losses["vessel"] < 0.35
    assert losses["fishing"] < 0.05


@pytest.mark.slow
def test_detection_with_the_paper_s_loss(crops: dict[str, Any]):
    task = PointDetection(PaperDetectionLoss())
    model = start(task, parts("convnext", dense=True))
    before = {name: value.item() for name, value in task.losses(model, crops).items()}
    losses = overfit(task, model, crops, 250)
    assert losses["vessel"] < 0.5 * before["vessel"]
    assert losses["center"] < 0.5 * before["center"]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_segmentation(crops: dict[str, Any], backbone: str):
    batch = crops | {"mask": (crops["targets"]["vessel"][:, 0] == 1).long()}
    task = SemanticSegmentation()
    losses = overfit(task, start(task, parts(backbone, dense=True), 2), batch, 40)
    assert losses["cross_entropy"] < 0.02
    assert losses["dice"] < 0.15


@pytest.mark.parametrize("backbone", BACKBONES)
def test_classification(crops: dict[str, Any], backbone: str):
    batch = crops | {"label": torch.tensor([0, 1, 2, 3])}
    task = ImageClassification(label_smoothing=0.0)
    assert overfit(task, start(task, parts(backbone, dense=False), 4), batch, 40)["loss"] < 0.05


@pytest.mark.parametrize("loss", [DetectionLoss(), PaperDetectionLoss()], ids=lambda loss: type(loss).__name__)
def test_heads_start_at_the_priors(loss: PointLoss):
    model = start(PointDetection(loss), parts("convnext", dense=True))
    for name in loss.priors:
        torch.nn.init.zeros_(model.heads[name].weight)
    with torch.no_grad():
        maps = model(torch.zeros(1, 2, REGION, REGION))
    for name, prior in loss.priors.items():
        said = 100 * maps[name] if name == "length" else maps[name].sigmoid()
        torch.testing.assert_close(said, torch.full_like(said, prior))
