"""Semantic segmentation."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xt.losses.base import TileLoss, check_losses
from xt.losses.segmentation import SegmentationLoss
from xt.metrics.maps import class_scores
from xt.models.metadata import ModelMetadata
from xt.models.xt import XT
from xt.tasks.base import Batch, Losses, Product, Task, Valid, Values, painted
from xt.tasks.gather import num_images, summed
from xt.tasks.preview import Panel, class_colours, of_classes, of_image

if TYPE_CHECKING:
    from xt.data.base import DataModule


class SemanticSegmentation(Task):
    """Gives every pixel a class.

    Publishes the number of the class; classes and the mask value that is not scored are those of the data.

    Args:
        loss: Cross-entropy and dice by default.
        background: Whether the first class is background, which the means of the scores leave out, and with them the
            choice of the best model; False where it is a class like the others.
    """

    kind = "semantic-segmentation"
    class_heads = ("mask",)
    takes = "mask"
    monitor = "iou"
    shown = ("iou",)

    def __init__(self, loss: TileLoss | None = None, background: bool = True) -> None:
        super().__init__()
        self.loss, self.background = loss or SegmentationLoss(), background
        self.ignore_index = -1

    @property
    def heads(self) -> dict[str, int]:
        """One channel for each class."""
        return {"mask": len(self.classes)}

    def adopt(self, data: "DataModule") -> None:
        """Take the mask value that is neither learned nor scored.

        Raises:
            ConfigError: If the data give no masks, or the loss was told of other classes.
        """
        from torchmetrics.classification import MulticlassConfusionMatrix  # prediction is spared seconds of imports

        super().adopt(data)
        self.loss.check(data.classes)
        self.ignore_index = data.ignore_index
        self.confusion = MulticlassConfusionMatrix(len(data.classes), ignore_index=data.ignore_index)

    def prepare(self, metadata: ModelMetadata) -> None:
        """Take the classes, and whether the first is background."""
        super().prepare(metadata)
        self.background = bool(metadata.settings.get("background", self.background))

    def settings(self) -> dict[str, Any]:
        """That the first class is no background, if it is none."""
        return {} if self.background else {"background": False}

    def losses(self, model: XT, batch: Batch) -> Losses:
        """Losses of a batch, decoded tile by tile."""
        scored = batch["valid"] & (batch["mask"] != self.ignore_index)[:, None]
        targets = {"mask": batch["mask"], "valid": scored}
        sums = model.statistics(batch["image"], targets, self.loss.statistics, batch["valid"])
        return check_losses(self.loss, self.loss.total(summed(sums), num_images(batch["image"])))

    def measure(self, model: XT, batch: Batch) -> Mapping[str, Tensor]:
        """Count right and wrong pixels, of those that have data."""
        raw: dict[str, Tensor] = model(batch["image"], batch["valid"])
        true = batch["mask"].masked_fill(~batch["valid"][:, 0], self.ignore_index)
        self.confusion.update(raw["mask"].argmax(1), true)
        return raw

    def preview(self, batch: Batch, index: int, raw: Mapping[str, Tensor]) -> list[Panel]:
        """The image, the true classes and the ones found."""
        valid, mask = batch["valid"][index], batch["mask"][index].cpu().numpy()
        known = valid[0].cpu().numpy()
        return [
            Panel(batch["name"][index], of_image(batch["image"][index], valid)),
            Panel("true", of_classes(mask, known & (mask != self.ignore_index))),
            Panel("predicted", of_classes(raw["mask"].argmax(0).cpu().numpy(), known)),
        ]

    def scores(self, data: "DataModule", tune: bool) -> dict[str, float]:
        """IoU and F1 of each class that occurs, and the means; these leave the first class out if it is background.

        The means are 0 where no class that counts occurs.
        """
        pixels = self.confusion.compute()
        self.confusion.reset()
        counts = {(said, true): int(pixels[true, said]) for true, said in pixels.nonzero().tolist()}
        return {"iou": 0.0, "f1": 0.0} | class_scores(counts, dict(enumerate(data.classes)), self.background)

    @property
    def product(self) -> Product:
        """The class's number; nodata is no class."""
        return class_product(self.classes)

    def activate(self, raw: Mapping[str, Tensor]) -> Values:
        """Probabilities."""
        probabilities: Values = raw["mask"].float().softmax(0).cpu().numpy()
        return probabilities

    def paint(self, values: Values, valid: Valid) -> npt.NDArray[Any]:
        """The most likely class."""
        return painted(values.argmax(0)[None], valid, self.product)

    def published(self, raw: Mapping[str, Tensor], valid: Tensor) -> dict[str, Tensor]:
        """``probabilities (B, classes, H, W)``, and ``class (B, H, W)``, the pixels of the raster."""
        return class_outputs("probabilities", raw["mask"].float(), valid, self.product.nodata)


def class_outputs(name: str, logits: Tensor, valid: Tensor, nodata: float) -> dict[str, Tensor]:
    """What an exported model gives of ``(B, classes, …)``: probabilities, and the number of the class.

    Args:
        name: Of the probabilities.
        logits: One channel for each class.
        valid: ``(B, …)`` bool.
        nodata: The number where nothing is valid.
    """
    dtype = torch.uint8 if nodata <= torch.iinfo(torch.uint8).max else torch.int32
    likely = logits.argmax(1).masked_fill(~valid, int(nodata)).to(dtype)
    return {name: logits.softmax(1), "class": likely}


def class_product(classes: tuple[str, ...]) -> Product:
    """A band of class numbers, whose nodata is the highest number of the smallest type that leaves it free."""
    dtype = np.dtype("uint8" if len(classes) <= np.iinfo(np.uint8).max else "uint16")
    colours = class_colours(len(classes)) if dtype == np.uint8 else None
    return Product(("class",), dtype.name, float(np.iinfo(dtype).max), "mode", classes, colours)
