"""What weight decay changes, and losses that a context encoder adds."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import config
from torch import Tensor

from xt.data.base import DataModule
from xt.errors import ConfigError
from xt.models.checkpoint import PARTS
from xt.models.context.identity import Identity
from xt.models.context.mamba import Mamba
from xt.models.decoders.pooled import ClassToken
from xt.models.decoders.unet import UNet
from xt.models.factory import ModelConfig
from xt.models.region.timm_features import TimmFeatures
from xt.tasks.base import Task
from xt.tasks.classification import ImageClassification
from xt.tasks.segmentation import SemanticSegmentation
from xt.tasks.tokens import TokenDetection
from xt.training.module import TrainingModule, describe
from xt.training.optimizer import optimization, parameter_groups
from xt.training.parsing import parse

SWIN = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 2]}


class Images(DataModule):
    """Two bands, three classes."""

    bands, mean, std, classes = ("a", "b"), (0.0, 0.0), (1.0, 1.0), ("x", "y", "z")

    def __init__(self, gives: str) -> None:
        super().__init__()
        self.gives = gives

    def dataset(self, split: str) -> Any:
        raise NotImplementedError


def module(task: Task, parts: ModelConfig) -> TrainingModule:
    made = TrainingModule(task, parts)
    made.build(Images(task.takes))
    return made


def swin_mamba() -> TrainingModule:
    def encoder(in_chans: int) -> TimmFeatures:
        return TimmFeatures(in_chans, "swinv2_t", 64, model_args=SWIN, norm=True)

    return module(ImageClassification(), ModelConfig(encoder, lambda dim: Mamba(dim, depth=2), ClassToken, 16))


def test_norms_biases_and_what_models_name_are_not_decayed():
    task = swin_mamba()
    decayed, rest = parameter_groups(task, task.model, 0.1)
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in task.model.named_parameters()}
    spared, kept = ({names[id(p)] for p in group["params"]} for group in (rest, decayed))
    assert spared | kept == set(names.values())
    assert not spared & kept
    for part in ("A_log", ".D", "logit_scale", "cpb_mlp", "class_token", "norm", "bias"):
        found = [name for name in names.values() if part in name]
        assert found, part
        assert set(found) <= spared, part
    assert {"context.input_proj.weight", "heads.label.weight"} <= kept
    assert any(name.endswith("qkv.weight") for name in kept)
    assert all(dict(task.model.named_parameters())[name].ndim > 1 for name in kept)


def test_decay_shrinks_the_first_group_alone():
    task = swin_mamba()
    before = {name: p.detach().clone() for name, p in task.model.named_parameters()}
    groups = parameter_groups(task, task.model, 0.5)
    made = optimization(groups, 0.1, 0, 10)
    for p in task.parameters():
        p.grad = torch.zeros_like(p)
    made["optimizer"].step()
    shrunk = {name for name, p in task.model.named_parameters() if not torch.equal(p, before[name])}
    names = {id(p): name for name, p in task.model.named_parameters()}
    assert shrunk == {names[id(p)] for p in groups[0]["params"] if before[names[id(p)]].any()}


def test_the_rate_rises_then_falls_along_a_cosine():
    task = swin_mamba()
    made = optimization(parameter_groups(task, task.model, 0.0), 1.0, 4, 12)
    assert made["lr_scheduler"]["interval"] == "step"
    rates = []
    for _ in range(13):
        rates.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[8] == pytest.approx(0.5)
    assert rates[12] == pytest.approx(0.0)


def test_parts_that_do_not_learn_stay_in_evaluation_mode():
    def encoder(in_chans: int) -> TimmFeatures:
        return TimmFeatures(in_chans, "convnext_atto", 64, model_args={"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]})

    parts = ModelConfig(encoder, lambda dim: Mamba(dim, depth=1), lambda inputs: UNet(inputs, [8, 8, 8], 4), 16)
    made = TrainingModule(SemanticSegmentation(), parts, train_parts=["decoder", "heads"])
    made.build(Images("mask"))
    made.train()
    model = made.model
    learns = {"region_encoder": False, "context": False, "decoder": True, "heads": True}
    assert {name: getattr(model, name).training for name in learns} == learns
    assert {name: next(getattr(model, name).parameters()).requires_grad for name in learns} == learns


def test_parts_that_the_task_does_not_reach_do_not_learn():
    def parts() -> ModelConfig:
        raise AssertionError  # not asked for before the data are known

    assert TrainingModule(TokenDetection(), parts).train_parts == ["context"]  # type: ignore[arg-type]
    assert TrainingModule(SemanticSegmentation(), parts).train_parts == list(PARTS)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="TokenDetection teaches context alone, not decoder, heads"):
        TrainingModule(TokenDetection(), parts, train_parts=["context", "decoder", "heads"])  # type: ignore[arg-type]


def test_data_without_a_mean_are_named():
    class Bare(DataModule):
        bands = ("a",)

        def dataset(self, split: str) -> Any:
            raise NotImplementedError

    made = TrainingModule(SemanticSegmentation(), None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Bare has no mean; set it in the constructor or in setup"):
        made.build(Bare())


def test_gradients_are_clipped_as_asked(tmp_path: Path):
    path = config(tmp_path, tmp_path / "scenes")
    assert parse(path, []).trainer.gradient_clip_val == 5
    assert parse(path, ["--trainer.gradient_clip_val", "0.5"]).trainer.gradient_clip_val == 0.5


def test_a_model_is_saved_with_what_its_data_are():
    data = Images("mask")
    data.nodata, data.coarse, data.resolution, data.image_size = -9.0, ("b",), 10.0, 96
    found = describe(data, SemanticSegmentation())
    assert (found.task, found.task_class, found.image_size) == ("semantic-segmentation", "SemanticSegmentation", 96)
    assert (found.inputs, found.resolution, found.classes) == (data.inputs, 10.0, ("x", "y", "z"))
    assert (found.nodata, found.coarse) == (-9.0, ("b",))


class Balancing(Identity):
    """An encoder with a loss of its own."""

    def losses(self) -> dict[str, Tensor]:
        return {"balance": torch.tensor(0.75)}


def test_losses_of_the_context_are_added_and_logged(monkeypatch: pytest.MonkeyPatch):
    model = ModelConfig(
        lambda n: TimmFeatures(n, "convnext_atto", 64, model_args={"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}),
        Balancing, lambda inputs: UNet(inputs, [8, 8, 8], 4), 16,
    )  # fmt: skip
    made = module(SemanticSegmentation(), model)
    batch: dict[str, Any] = {
        "image": torch.randn(1, 2, 64, 64), "valid": torch.ones(1, 1, 64, 64, dtype=torch.bool),
        "mask": torch.zeros(1, 64, 64, dtype=torch.long), "name": ["a"],
    }  # fmt: skip
    logged: dict[str, float] = {}
    monkeypatch.setattr(TrainingModule, "log", lambda self, name, value, **more: logged.update({name: value}))
    alone = made.task.losses(made.model, batch)["loss"]
    assert made.training_step(batch, 0).item() == pytest.approx(alone.item() + 0.75, rel=1e-6)
    assert logged["train/balance"] == 0.75
