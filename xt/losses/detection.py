"""Loss of point detection, as in the xView3 recipe of xT (arXiv 2403.01915), as sums over tiles."""

import torch
import torch.nn.functional as F
from torch import Tensor

from xt.losses.base import TileLoss

CENTER_SCALE = 255.0
LENGTH_SCALE_M = 100.0
IGNORE = 255
_PER_FLAG = 6


class DetectionLoss(TileLoss):
    """Vessel and fishing: BCE + focal + dice; centre: squared error; length: relative error.

    The recipe sums the centre's squared error over a crop of 4096 px times 3e-7; here it is a mean, with the
    weight that is the same for such a crop (3e-7 · 4096² ≈ 5), so that other sizes train alike.

    Args:
        vessel_weight: Of the vessel's part.
        fishing_weight: Of the fishing part.
        center_weight: Of the mean squared error of the centre, in units of 255 at an object.
        length_weight: Of ``|p − g| / g``.
        focal_weight: Of focal loss beside BCE and dice.
        gamma: Exponent of focal loss.
        center_margin: Errors up to this (of 255) are free.
        positive_weight: Weight of pixels of objects in BCE and focal loss.
    """

    def __init__(
        self,
        vessel_weight: float = 1.0,
        fishing_weight: float = 2.0,
        center_weight: float = 5.0,
        length_weight: float = 2.0,
        focal_weight: float = 3.0,
        gamma: float = 2.0,
        center_margin: float = 0.1,
        positive_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.weights = {"vessel": vessel_weight, "fishing": fishing_weight}
        self.center_weight, self.length_weight = center_weight, length_weight
        self.focal_weight, self.gamma = focal_weight, gamma
        self.center_margin, self.positive_weight = center_margin, positive_weight

    def statistics(self, maps: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
        """Sums over a tile: six for vessel, six for fishing, two for centre, two for length."""
        valid = targets["valid"]
        parts: list[Tensor] = []
        for name in ("vessel", "fishing"):
            parts += self._flag(maps[name].float(), targets[name], valid)
        error = CENTER_SCALE * maps["center"].float() - targets["center"].float()
        squared = error.square() * (error.abs() > self.center_margin) * valid
        parts += [squared.sum(), valid.sum().float()]
        metres = targets["length"].float()
        known = (metres > 0) & valid
        relative = (LENGTH_SCALE_M * maps["length"].float() - metres).abs() / metres.clamp(min=1.0)
        parts += [(relative * known).sum(), known.sum().float()]
        return torch.stack(parts)

    def total(self, statistics: Tensor) -> dict[str, Tensor]:
        """Losses from the sums: ``loss``, ``vessel``, ``fishing``, ``center``, ``length``."""
        losses = {}
        for index, name in enumerate(("vessel", "fishing")):
            bce, focal, both, predicted, true, count = statistics[index * _PER_FLAG : (index + 1) * _PER_FLAG]
            dice = 1 - (2 * both + 1) / (predicted + true + 1)
            # Without a scored pixel there is nothing to learn.
            losses[name] = ((bce + self.focal_weight * focal) / count.clamp(min=1) + dice) * (count > 0)
        squared, pixels, relative, discs = statistics[2 * _PER_FLAG :]
        losses["center"] = squared / pixels.clamp(min=1)
        losses["length"] = relative / discs.clamp(min=1)
        weights = {**self.weights, "center": self.center_weight, "length": self.length_weight}
        loss = sum((weights[name] * value for name, value in losses.items()), start=statistics.new_zeros(()))
        return {"loss": loss, **losses}

    def _flag(self, logits: Tensor, target: Tensor, valid: Tensor) -> list[Tensor]:
        scored = valid & (target != IGNORE)
        truth = (target == 1).float()
        weight = scored * (1 + (self.positive_weight - 1) * truth)
        bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        focal = (1 - torch.exp(-bce)) ** self.gamma * bce
        probability = logits.sigmoid() * scored
        return [
            (bce * weight).sum(),
            (focal * weight).sum(),
            (probability * truth).sum(),
            probability.sum(),
            (truth * scored).sum(),
            weight.sum(),
        ]
