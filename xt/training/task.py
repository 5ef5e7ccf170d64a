"""What every task shares: optimiser, schedule, non-finite losses, metadata."""

from abc import abstractmethod
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from xt.data.base import DataModule
from xt.errors import CheckpointError, ConfigError, ModelError, TrainingError, at_least, nearest
from xt.models.checkpoint import PARTS, load_parts
from xt.models.factory import ModelConfig
from xt.models.metadata import ModelMetadata, Task
from xt.models.xt import XT
from xt.training.optimizer import optimization, parameter_groups


class TrainingTask(LightningModule):
    """A model with its loss and metrics. Subclasses set ``kind``, ``monitor`` and call :meth:`build`.

    Args:
        model: Parts of the model; None if the task builds it otherwise.
        lr: Highest learning rate.
        weight_decay: Of AdamW.
        warmup_steps: Steps over which the learning rate rises; it then falls to 0 along a cosine.
        init_from: Run folder or model folder whose weights the training starts from.
        init_parts: Parts whose weights are taken.
    """

    kind: Task
    model: XT
    monitor: str
    """Logged metric by which the best model is chosen; higher is better."""

    def __init__(
        self,
        model: ModelConfig | None,
        lr: float,
        weight_decay: float,
        warmup_steps: int,
        init_from: str | None = None,
        init_parts: tuple[str, ...] = PARTS,
    ) -> None:
        super().__init__()
        if not lr > 0:
            raise ConfigError(f"model.init_args.lr is {lr}; it must be above 0")
        at_least(0, "model.init_args", weight_decay=weight_decay, warmup_steps=warmup_steps)
        unknown = [part for part in init_parts if part not in PARTS]
        if unknown:
            raise ConfigError(f"model.init_args.init_parts: no part {unknown[0]!r}{nearest(unknown[0], PARTS)}")
        self.config, self.init_from, self.init_parts = model, init_from, init_parts
        self.lr, self.weight_decay, self.warmup_steps = lr, weight_decay, warmup_steps

    @property
    def data(self) -> DataModule:
        """The data module of the trainer."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, DataModule)
        return data

    def build(self, heads: dict[str, int], biases: dict[str, float] | None = None) -> None:
        """Build the model with its heads, and let heads start with a bias.

        Args:
            heads: Name → channels.
            biases: Name → bias of all its channels.
        """
        assert self.config is not None
        self.model = self.config.build(heads)
        for name, bias in (biases or {}).items():
            torch.nn.init.constant_(self.model.heads[name].bias, bias)  # type: ignore[arg-type]

    def check_data(self) -> None:
        """Compare the data's channels with the model's.

        Raises:
            ModelError: If they differ; both numbers are said.
        """
        if len(self.data.bands) != self.model.in_chans:
            raise ModelError(
                f"the data have {len(self.data.bands)} bands ({', '.join(self.data.bands)}), the model takes "
                f"{self.model.in_chans}; set model.init_args.model.region_encoder.init_args.in_chans"
            )

    def on_fit_start(self) -> None:
        """Check the data against the model."""
        self.check_data()

    def start(self) -> None:
        """Take the weights that a run begins with; a run that goes on has its own.

        Raises:
            CheckpointError: If the model to start from is missing or does not fit.
        """
        if self.init_from is not None:
            load_parts(self.model, self.init_from, self.init_parts)

    def metadata(self) -> ModelMetadata:
        """What is saved beside the weights."""
        data = self.data
        return ModelMetadata(
            task=self.kind,
            bands=data.bands,
            mean=data.mean,
            std=data.std,
            nodata=data.nodata,
            coarse=data.coarse,
            classes=data.classes,
            image_size=data.image_size,
            resolution=data.resolution,
            thresholds=self.thresholds(),
            **self.more_metadata(),
        )

    def beside(self) -> dict[str, Tensor]:
        """Weights that are trained beside the model and saved with it, by name."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("model.")}

    def load_beside(self, state: dict[str, Tensor] | None, source: str) -> None:
        """Take back what :meth:`beside` gave; None, from a model saved without it, leaves what is there.

        Raises:
            CheckpointError: If it does not fit.
        """
        if state is None:
            return
        own = self.beside()
        if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in state.items()}:
            raise CheckpointError(
                f"{source}: what was trained beside the model ({', '.join(sorted(state))}) is not what the config has "
                f"({', '.join(sorted(own)) or 'nothing'}); evaluate with the config it was trained with"
            )
        self.load_state_dict(state, strict=False)

    def thresholds(self) -> dict[str, float]:
        """Decision thresholds tuned on validation, if the task has any."""
        return {}

    def more_metadata(self) -> dict[str, Any]:
        """Fields of the metadata that only some tasks have."""
        return {}

    def set_thresholds(self, values: dict[str, float]) -> None:
        """Take the thresholds of a saved model."""

    @abstractmethod
    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of a batch; ``loss`` is minimised."""

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        """Compute the loss of a batch.

        Raises:
            TrainingError: If it is not finite.
        """
        losses = self.losses(batch)
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
        return losses["loss"]

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and a cosine to 0; biases, norms and what the model names are not decayed."""
        groups = parameter_groups(self, self.model, self.weight_decay)
        return optimization(groups, self.lr, self.warmup_steps, max(int(self.trainer.estimated_stepping_batches), 1))
