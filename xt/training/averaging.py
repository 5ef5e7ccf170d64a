"""Lightning's averaged weights, as far as they touch what a run keeps."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging

from xt.models.checkpoint import PARTS
from xt.training.module import TrainingModule


class FrozenStay(Callback):
    """Keeps parts that do not learn out of the averages: a mean of equal numbers is another number by rounding."""

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        """Take them from the model again."""
        self._take(trainer, module)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Likewise."""
        self._take(trainer, module)

    @torch.no_grad()
    def _take(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        for part in (each for each in PARTS if each not in module.train_parts):
            kept = getattr(module.model, part).state_dict()
            for average in (each._average_model for each in averaging(trainer)):
                if average is not None:
                    for name, value in getattr(average.module.model, part).state_dict().items():
                        value.copy_(kept[name])


@contextmanager
def as_validated(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Give the module the averaged weights again, which Lightning takes away before ``on_validation_end``."""
    callbacks = averaging(trainer)
    for each in callbacks:
        each.on_validation_epoch_start(trainer, module)
    try:
        yield
    finally:
        for each in reversed(callbacks):
            each.on_validation_epoch_end(trainer, module)


def averaging(trainer: Trainer) -> list[WeightAveraging]:
    """The callbacks that average weights."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return [each for each in callbacks if isinstance(each, WeightAveraging)]
