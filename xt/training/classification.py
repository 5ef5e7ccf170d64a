"""Image classification."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from xt.errors import ModelError
from xt.models.checkpoint import PARTS
from xt.models.factory import ModelConfig
from xt.training.task import TrainingTask


class ImageClassification(TrainingTask):
    """Gives every image a class.

    Args:
        model: Parts of the model.
        num_classes: Classes.
        label_smoothing: Of cross-entropy.
        lr: Highest learning rate.
        weight_decay: Of AdamW.
        warmup_steps: Steps over which the learning rate rises.
        init_from: Run folder or model folder whose weights the training starts from.
        init_parts: Parts whose weights are taken.
    """

    kind = "classification"
    monitor = "val/top1"

    def __init__(
        self,
        model: ModelConfig,
        num_classes: int,
        label_smoothing: float = 0.1,
        lr: float = 1e-4,
        weight_decay: float = 0.05,
        warmup_steps: int = 100,
        init_from: str | None = None,
        init_parts: tuple[str, ...] = PARTS,
    ) -> None:
        super().__init__(model, lr, weight_decay, warmup_steps, init_from, init_parts)
        self.num_classes, self.label_smoothing = num_classes, label_smoothing
        self.build({"label": num_classes})
        self.top1 = MulticlassAccuracy(num_classes, average="micro")

    def check_data(self) -> None:
        """Compare channels and classes of the data with the model's."""
        super().check_data()
        if len(self.data.classes) != self.num_classes:
            raise ModelError(
                f"the data have {len(self.data.classes)} classes, the model has {self.num_classes}; set num_classes"
            )

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Cross-entropy of a batch."""
        logits = self.model(batch["image"], batch["valid"])["label"]
        return {"loss": F.cross_entropy(logits.float(), batch["label"], label_smoothing=self.label_smoothing)}

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Count right and wrong images."""
        self.top1.update(self.model(batch["image"], batch["valid"])["label"], batch["label"])

    def on_validation_epoch_end(self) -> None:
        """Log the accuracy."""
        self.log("val/top1", self.top1.compute(), prog_bar=True)
        self.top1.reset()

    def test_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Count right and wrong images."""
        self.validation_step(batch, batch_index)

    def on_test_epoch_end(self) -> None:
        """Log the accuracy."""
        self.log("test/top1", self.top1.compute())
        self.top1.reset()
