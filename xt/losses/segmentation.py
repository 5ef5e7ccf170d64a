"""Loss of semantic segmentation: cross-entropy and dice, as sums over tiles."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from xt.errors import ConfigError, at_least
from xt.losses.base import OPTIONS, TileLoss

WEIGHTS = f"{OPTIONS}.class_weights"


class SegmentationLoss(TileLoss):
    """Mean cross-entropy and the mean dice loss over classes.

    Args:
        dice_weight: Of dice beside cross-entropy.
        class_weights: Of each class in cross-entropy; all 1 by default.

    Raises:
        ConfigError: If a weight is negative or no number, or all are 0.
    """

    def __init__(self, dice_weight: float = 1.0, class_weights: list[float] | None = None) -> None:
        super().__init__()
        at_least(0, OPTIONS, dice_weight=dice_weight)
        if class_weights is not None and not (all(map(_is_weight, class_weights)) and any(class_weights)):
            raise ConfigError(f"{WEIGHTS} is {class_weights}; give numbers from 0 on, not all of them 0")
        self.dice_weight, self.class_weights = dice_weight, class_weights

    def check(self, classes: Sequence[str]) -> None:
        """Count the weights.

        Raises:
            ConfigError: If there is not one for each class.
        """
        if self.class_weights is not None and len(self.class_weights) != len(classes):
            raise ConfigError(
                f"{WEIGHTS} has {len(self.class_weights)} numbers for {len(classes)} classes ({', '.join(classes)}); "
                "give one for each, in this order"
            )

    def statistics(self, maps: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
        """Sums over a tile: cross-entropy, its weight, then per class overlap, prediction and truth.

        Args:
            maps: ``mask`` ``(B, classes, h, w)``.
            targets: ``mask`` ``(B, h, w)`` int64, and ``valid`` ``(B, 1, h, w)``: which of its pixels are scored.
        """
        logits, mask = maps["mask"].float(), targets["mask"]
        scored = targets["valid"][:, 0]
        truth = mask.masked_fill(~scored, 0)
        weights = None if self.class_weights is None else logits.new_tensor(self.class_weights)
        entropy = F.cross_entropy(logits, truth, weight=weights, reduction="none") * scored
        weight = scored.float() if weights is None else weights[truth] * scored
        one_hot = F.one_hot(truth, logits.shape[1]).movedim(-1, 1) * scored[:, None]
        probability = logits.softmax(1) * scored[:, None]
        sums = [(probability * one_hot), probability, one_hot.float()]
        return torch.cat([torch.stack([entropy.sum(), weight.sum()]), *(each.sum((0, 2, 3)) for each in sums)])

    def total(self, statistics: Tensor, images: int) -> dict[str, Tensor]:
        """Losses from the sums: ``loss``, ``cross_entropy``, ``dice``."""
        entropy = statistics[0] / statistics[1].clamp(min=1e-6)
        both, predicted, true = statistics[2:].view(3, -1)
        scores = (2 * both + 1) / (predicted + true + 1)
        dice = 1 - scores.mean()
        return {"loss": entropy + self.dice_weight * dice, "cross_entropy": entropy, "dice": dice}


def _is_weight(value: float) -> bool:
    return math.isfinite(value) and value >= 0
