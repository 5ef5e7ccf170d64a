"""The one LightningModule: a model, its task, and how it is trained."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from xt import plugins
from xt.data.base import DataModule
from xt.errors import CheckpointError, ConfigError, ModelError, TrainingError, XTWarning, at_least, nearest
from xt.losses.base import check_losses
from xt.models.checkpoint import PARTS, load_parts, load_weights
from xt.models.factory import ModelConfig
from xt.models.metadata import ModelMetadata
from xt.models.xt import XT
from xt.tasks.base import ImageTask, Task
from xt.tasks.gather import is_distributed
from xt.training.optimizer import optimization, parameter_groups


class TrainingModule(LightningModule):
    """Trains a model for a task. The model is built by :meth:`build`, when the data are known.

    Args:
        task: What the model shall do.
        model: Parts of the model.
        lr: Highest learning rate.
        weight_decay: Of AdamW.
        warmup_steps: Steps over which the learning rate rises; it then falls to 0 along a cosine.
        init_from: Run folder or model folder whose weights the training starts from.
        init_parts: Parts whose weights are taken: ``region_encoder``, ``context``, ``decoder``, ``heads``.
        train_parts: Parts that learn, of those that the task's losses reach; the others stay as they are, in evaluation
            mode.
    """

    model: XT

    def __init__(
        self,
        task: Task,
        model: ModelConfig,
        lr: float = 2e-4,
        weight_decay: float = 1e-4,
        warmup_steps: int = 100,
        init_from: str | None = None,
        init_parts: Sequence[str] = PARTS,
        train_parts: Sequence[str] = PARTS,
    ) -> None:
        super().__init__()
        if not lr > 0:
            raise ConfigError(f"model.lr is {lr}; it must be above 0")
        at_least(0, "model", weight_decay=weight_decay, warmup_steps=warmup_steps)
        for key, parts in (("init_parts", init_parts), ("train_parts", train_parts)):
            for part in parts:
                if part not in PARTS:
                    raise ConfigError(f"model.{key}: no part {part!r}{nearest(part, PARTS)}")
        if init_from is None and tuple(init_parts) != PARTS:
            raise ConfigError("model.init_parts: says what is taken of model.init_from, which is not given")
        beyond = [part for part in train_parts if part not in task.learns]
        if beyond and tuple(train_parts) != PARTS:
            taught, name = ", ".join(task.learns), type(task).__name__
            raise ConfigError(f"model.train_parts: {name} teaches {taught} alone, not {', '.join(beyond)}")
        self.register_module("model", None)  # its parameters come first
        self.task, self.config = task, model
        self.init_from, self.init_parts = init_from, init_parts
        self.train_parts = [part for part in train_parts if part in task.learns]
        self.lr, self.weight_decay, self.warmup_steps = lr, weight_decay, warmup_steps

    @property
    def data(self) -> DataModule:
        """The data module of the trainer."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, DataModule)
        return data

    @property
    def monitor(self) -> str:
        """Logged metric by which the best model is chosen; higher is better."""
        return f"val/{self.task.monitor}"

    def build(self, data: DataModule) -> None:
        """Build the model for data that are set up: as many channels as bands, heads for their classes.

        Raises:
            ConfigError: If the data do not give what the task learns from.
            ModelError: If the parts do not fit together.
        """
        for name in ("bands", "mean", "std"):
            if not hasattr(data, name):
                raise ConfigError(f"{type(data).__name__} has no {name}; set it in the constructor or in setup")
        self.task.adopt(data)
        metadata = describe(data, self.task)
        self.task.prepare(metadata)
        model = self.config.build(len(metadata.bands), self.task.heads)
        for name, bias in self.task.biases().items():
            torch.nn.init.constant_(model.heads[name].bias, bias)  # type: ignore[arg-type]
        self._use(model, metadata)

    def take(self, model: XT, metadata: ModelMetadata, data: DataModule) -> None:
        """Take a saved model instead, to measure it on data that are set up.

        Raises:
            ConfigError: If the data do not give what the task learns from.
            ModelError: If the data have other bands or classes than the model.
        """
        self.task.adopt(data)
        self.task.prepare(metadata)
        for what, mine, given in (("bands", metadata.bands, data.bands), ("classes", metadata.classes, data.classes)):
            if len(mine) != len(given):
                raise ModelError(
                    f"the data have {len(given)} {what} ({', '.join(given[:5])}), the model was trained on {len(mine)} "
                    f"({', '.join(mine[:5])}); take data like those it was trained on"
                )
            if list(mine) != list(given) and (set(mine) == set(given) or what == "classes"):
                raise ModelError(
                    f"the data have the {what} {', '.join(given)}, the model {', '.join(mine)}; give them "
                    + ("in its order" if set(mine) == set(given) else "as it has them")
                )
        self._use(model, metadata)
        self.task.check(model, metadata, data)

    def start(self, data: DataModule, checkpoint: Path | None = None) -> None:
        """Take the weights that a run begins or goes on with, before anything of it is written.

        Raises:
            CheckpointError: If they cannot be had or do not fit.
            ModelError: If the data do not fit the model.
        """
        if checkpoint is not None:
            saved = torch.load(checkpoint, weights_only=True, map_location="cpu")["state_dict"]
            load_weights(self, saved, f"{checkpoint}, made with other data or another model,")
        elif self.init_from is not None:
            named = self.task.channel_names, self.task.class_heads
            load_parts(self.model, self.init_from, self.init_parts, *named, self._metadata.bands)
        if checkpoint is None:
            _warn_of_untaught_norms(self.model.region_encoder)
        self.task.check(self.model, self._metadata, data)

    def train(self, mode: bool = True) -> "TrainingModule":
        """Set the mode; parts that do not learn stay in evaluation mode."""
        super().train(mode)
        for part in self._frozen():
            part.eval()
        return self

    def metadata(self) -> ModelMetadata:
        """What is saved beside the weights."""
        return replace(self._metadata, thresholds=self.task.thresholds(), settings=self.task.settings())

    def beside(self) -> dict[str, Tensor]:
        """Weights that are trained beside the model and saved with it, by name."""
        return dict(self.task.state_dict())

    def load_beside(self, state: dict[str, Tensor] | None, source: str) -> None:
        """Take back what :meth:`beside` gave.

        Raises:
            CheckpointError: If it is missing or does not fit.
        """
        own, given = self.beside(), state or {}
        if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in given.items()}:
            raise CheckpointError(
                f"{source}: what was trained beside the model ({', '.join(sorted(given)) or 'nothing'}) is not what "
                f"the config has ({', '.join(sorted(own)) or 'nothing'}); evaluate with the config it was trained with"
            )
        self.task.load_state_dict(given)

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        """Compute the loss of a batch.

        Raises:
            TrainingError: If it is not finite.
        """
        losses = check_losses(self.task, self.task.losses(self.model, batch))
        for name, value in self.model.context.encoder.losses().items():
            losses |= {name: value, "loss": losses["loss"] + value}
        if not torch.isfinite(losses["loss"]):
            parts = ", ".join(f"{name} {value.item():g}" for name, value in losses.items())
            raise TrainingError(
                f"loss is not finite at step {self.global_step} ({parts}) on {', '.join(batch['name'])}; the last "
                "good weights are kept: lower lr, or look at these images"
            )
        for name, value in losses.items():
            self.log(f"train/{name}", value.detach(), prog_bar=name == "loss", batch_size=len(batch["name"]))
        loss = losses["loss"]
        if is_distributed():  # it waits for each parameter, also where an image without data reaches none
            loss = loss + sum(0 * each.sum() for each in self.parameters() if each.requires_grad)
        return loss

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Take a step; where the GPU's memory is full before a weight has changed, take it with less at a time."""
        assert optimizer_closure is not None  # loss and gradients, from no gradient on

        def patient() -> Any:
            while True:
                try:
                    return optimizer_closure()
                except torch.OutOfMemoryError:
                    alone = self.trainer.world_size == self.trainer.accumulate_grad_batches == 1
                    if not alone or not self.model.work_on_less():
                        raise
                torch.cuda.empty_cache()
                warnings.warn(
                    f"the GPU's memory is full; going on with {self.model.region_batch} regions and tiles of "
                    f"{self.model.decode_size} px at a time",
                    XTWarning,
                    stacklevel=2,
                )

        super().optimizer_step(epoch, batch_idx, optimizer, patient)

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> Mapping[str, Tensor] | None:
        """Keep what the scores need; the answers go to :class:`~xt.training.samples.Samples`."""
        return self.task.measure(self.model, batch)

    def on_validation_epoch_end(self) -> None:
        """Score the validation data; in training, thresholds are tuned on them."""
        self._report("val", tune=self.trainer.state.fn == "fit" and not self.trainer.sanity_checking)

    def test_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Keep what the scores need."""
        self.task.measure(self.model, batch)

    def on_test_epoch_end(self) -> None:
        """Score the test data."""
        self._report("test", tune=False)

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and a cosine to 0; biases, norms and what the model names are not decayed."""
        groups = parameter_groups(self, self.model, self.weight_decay)
        return optimization(groups, self.lr, self.warmup_steps, max(int(self.trainer.estimated_stepping_batches), 1))

    def _use(self, model: XT, metadata: ModelMetadata) -> None:
        self.model, self._metadata = model, metadata
        self.task.attach(model)
        for part in self._frozen():
            part.requires_grad_(False)
        if not any(each.requires_grad for each in model.parameters()):
            raise ConfigError(f"model.train_parts is {list(self.train_parts)}: nothing learns; name parts with weights")

    def _frozen(self) -> list[torch.nn.Module]:
        return [getattr(self.model, part) for part in PARTS if part not in self.train_parts]

    def _report(self, stage: str, tune: bool) -> None:
        for name, value in self.task.scores(self.data, tune).items():
            self.log(f"{stage}/{name}", value, prog_bar=name in self.task.shown)


def _warn_of_untaught_norms(encoder: torch.nn.Module) -> None:
    """Say that batch normalisation without statistics, which never gets any here, does nothing."""
    norms = [each for each in encoder.modules() if isinstance(each, torch.nn.modules.batchnorm._BatchNorm)]
    if norms and not any(map(_is_taught, norms)):
        warnings.warn(
            f"model.model.region_encoder: its {len(norms)} layers of batch normalisation keep the statistics that they "
            "start with, so that regions do not influence each other, and without weights they do nothing; give "
            "weights or pretrained: true, or take a backbone with layer norm, such as swinv2_t or convnext_tiny",
            XTWarning,
            stacklevel=2,
        )


def _is_taught(norm: torch.nn.modules.batchnorm._BatchNorm) -> bool:
    mean, variance = norm.running_mean, norm.running_var
    return mean is not None and variance is not None and bool(mean.any() or variance.ne(1).any())


def describe(data: DataModule, task: Task) -> ModelMetadata:
    """What a model trained on data for a task will be; on tokens, what the model that made them is."""
    if data.described is not None:
        return ModelMetadata.from_dict(data.described)
    return ModelMetadata(
        task=task.kind,
        bands=data.bands,
        mean=data.mean,
        std=data.std,
        nodata=data.nodata,
        coarse=data.coarse,
        classes=data.classes,
        image_size=data.image_size,
        resolution=data.resolution,
        task_class=plugins.short_name(task),
        settings=task.settings(),
        resize_type=data.resize_type if isinstance(task, ImageTask) else "",  # a map has the grid of its image
    )
