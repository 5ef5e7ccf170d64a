"""Semantic segmentation."""

from typing import Any

from torch import Tensor
from torchmetrics.classification import MulticlassF1Score, MulticlassJaccardIndex

from xt.errors import ModelError
from xt.losses.base import TileLoss
from xt.losses.segmentation import SegmentationLoss
from xt.models.checkpoint import PARTS
from xt.models.factory import ModelConfig
from xt.training.task import TrainingTask


class SemanticSegmentation(TrainingTask):
    """Gives every pixel a class.

    Args:
        model: Parts of the model.
        num_classes: Classes.
        ignore_index: Mask value that is neither learned nor scored.
        loss: Cross-entropy and dice by default.
        lr: Highest learning rate.
        weight_decay: Of AdamW.
        warmup_steps: Steps over which the learning rate rises.
        init_from: Run folder or model folder whose weights the training starts from.
        init_parts: Parts whose weights are taken.
    """

    kind = "semantic-segmentation"
    monitor = "val/iou"

    def __init__(
        self,
        model: ModelConfig,
        num_classes: int,
        ignore_index: int = 255,
        loss: TileLoss | None = None,
        lr: float = 2e-4,
        weight_decay: float = 1e-4,
        warmup_steps: int = 100,
        init_from: str | None = None,
        init_parts: tuple[str, ...] = PARTS,
    ) -> None:
        super().__init__(model, lr, weight_decay, warmup_steps, init_from, init_parts)
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.loss = loss or SegmentationLoss(ignore_index)
        self.build({"mask": num_classes})
        self.iou = MulticlassJaccardIndex(num_classes, average="none", ignore_index=ignore_index)
        self.f1 = MulticlassF1Score(num_classes, average="none", ignore_index=ignore_index)

    def check_data(self) -> None:
        """Compare channels and classes of the data with the model's."""
        super().check_data()
        if len(self.data.classes) != self.num_classes:
            raise ModelError(
                f"the data have {len(self.data.classes)} classes, the model has {self.num_classes}; set num_classes"
            )

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of a batch, decoded tile by tile."""
        targets = {"mask": batch["mask"], "valid": batch["valid"]}
        return self.loss.total(self.model.statistics(batch["image"], targets, self.loss.statistics, batch["valid"]))

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Count right and wrong pixels."""
        predicted = self.model(batch["image"], batch["valid"])["mask"].argmax(1)
        self.iou.update(predicted, batch["mask"])
        self.f1.update(predicted, batch["mask"])

    def on_validation_epoch_end(self) -> None:
        """Log IoU and F1 of each class and the means; ``iou`` leaves the first class (background) out."""
        self._report("val")

    def test_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Count right and wrong pixels."""
        self.validation_step(batch, batch_index)

    def on_test_epoch_end(self) -> None:
        """Log as in validation."""
        self._report("test")

    def _report(self, stage: str) -> None:
        iou, f1 = self.iou.compute(), self.f1.compute()
        names = self.data.classes
        for values, metric in ((iou, "iou"), (f1, "f1")):
            self.log_dict({f"{stage}/{metric}_{name}": value for name, value in zip(names, values, strict=True)})
            self.log(f"{stage}/{metric}", values[1:].mean(), prog_bar=metric == "iou")
        self.iou.reset()
        self.f1.reset()
