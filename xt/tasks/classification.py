"""Image classification."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

from xt.errors import ConfigError
from xt.models.xt import XT
from xt.tasks.base import Batch, ImageTask, Losses, Product, Valid, Values, painted
from xt.tasks.gather import num_images, summed
from xt.tasks.preview import Panel, of_image
from xt.tasks.segmentation import class_outputs, class_product

if TYPE_CHECKING:
    from xt.data.base import DataModule


class ImageClassification(ImageTask):
    """Gives every image a class.

    Publishes the number of the class, tile by tile, and the mean over all tiles as JSON.

    Args:
        label_smoothing: Of cross-entropy, from 0 to 1.

    Raises:
        ConfigError: If it lies outside.
    """

    kind = "classification"
    class_heads = ("label",)
    takes = "label"
    monitor = "top1"
    shown = ("top1",)
    files = (".json",)

    def __init__(self, label_smoothing: float = 0.1) -> None:
        super().__init__()
        if not 0 <= label_smoothing <= 1:
            raise ConfigError(f"model.task.init_args.label_smoothing is {label_smoothing}; give one from 0 to 1")
        self.label_smoothing = label_smoothing

    @property
    def heads(self) -> dict[str, int]:
        """One channel for each class."""
        return {"label": len(self.classes)}

    def adopt(self, data: "DataModule") -> None:
        """Make the metric; prediction needs none, and is spared seconds of imports.

        Raises:
            ConfigError: If the data give no labels, or those of one class.
        """
        from torchmetrics.classification import MulticlassAccuracy

        super().adopt(data)
        if len(data.classes) < 2:
            raise ConfigError(f"data: one class, {', '.join(data.classes)}; a classifier learns at least two")
        self.top1: Any = MulticlassAccuracy(len(data.classes), average="micro")

    def attach(self, model: XT) -> None:
        """Make sure that the model has one answer for an image.

        Raises:
            ConfigError: If its decoder gives maps.
        """
        if model.dense:
            name = type(model.decoder).__name__
            raise ConfigError(
                f"model.model.decoder: {name} gives maps; for classes of images take Pooled or ClassToken"
            )

    def losses(self, model: XT, batch: Batch) -> Losses:
        """Cross-entropy of a batch."""
        logits = model(batch["image"], batch["valid"])["label"].float()
        sums = F.cross_entropy(logits, batch["label"], label_smoothing=self.label_smoothing, reduction="sum")
        return {"loss": summed(sums) / num_images(batch["image"])}

    def measure(self, model: XT, batch: Batch) -> Mapping[str, Tensor]:
        """Count right and wrong images."""
        raw: dict[str, Tensor] = model(batch["image"], batch["valid"])
        self.top1.update(raw["label"], batch["label"])
        return raw

    def preview(self, batch: Batch, index: int, raw: Mapping[str, Tensor]) -> list[Panel]:
        """The image, under its class and the one found."""
        scores = self.activate(raw)
        true, said = int(batch["label"][index]), int(scores.argmax())
        title = f"{self.classes[true]}, predicted {self.classes[said]} ({scores[said]:.0%})"
        return [Panel(title, of_image(batch["image"][index], batch["valid"][index]))]

    def scores(self, data: "DataModule", tune: bool) -> dict[str, float]:
        """The accuracy."""
        value = float(self.top1.compute())
        self.top1.reset()
        return {"top1": value}

    @property
    def product(self) -> Product:
        """The class's number; nodata is no class."""
        return class_product(self.classes)

    def activate(self, raw: Mapping[str, Tensor]) -> Values:
        """Probabilities."""
        probabilities: Values = raw["label"].float().softmax(0).cpu().numpy()
        return probabilities

    def paint(self, values: Values, valid: Valid) -> npt.NDArray[Any]:
        """The most likely class."""
        return painted(values.argmax(0)[None], valid, self.product)

    def published(self, raw: Mapping[str, Tensor], valid: Tensor) -> dict[str, Tensor]:
        """``scores (B, classes)``, and the number of the ``class (B,)``."""
        return class_outputs("scores", raw["label"].float(), valid.flatten(1).any(1), self.product.nodata)

    def describe(self, values: npt.NDArray[np.float64] | None) -> dict[str, Any]:
        """The class and the scores of all; where no tile has data, the class is null."""
        if values is None:
            return {"class": None, "scores": {}}
        scores = dict(zip(self.classes, values.tolist(), strict=True))
        return {"class": self.classes[int(values.argmax())], "scores": scores}
