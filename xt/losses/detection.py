"""Losses of point detection as sums over tiles: the default, and that of xT's xView3 recipe (arXiv 2403.01915).

The default differs from the recipe where that learns nothing for a thousand steps: the centre is a probability learnt
by a focal loss instead of a squared error on a scale of 255, and fishing is learnt where it is asked, at vessels,
instead of over a sea of background. ``docs/training.md`` has the figures.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from xt.data.targets import CENTER_SCALE, IGNORE, LENGTH_SCALE_M, UNKNOWN, CenterActivation
from xt.errors import at_least
from xt.losses.base import OPTIONS, TileLoss

Maps = dict[str, Tensor]


class PointLoss(TileLoss):
    """What these losses share: the parts of one flag, and relative length.

    Attributes:
        center_activation: How the head's output becomes a value in 0..1 at an object's centre.
        priors: Head → what it should say of a pixel before it has learnt anything: a probability, or metres.
    """

    center_activation: CenterActivation
    priors: dict[str, float]

    def biases(self) -> dict[str, float]:
        """Bias of each head's last layer with which it says what the priors say."""
        return {
            name: value / LENGTH_SCALE_M if name == "length" else math.log(value / (1 - value))
            for name, value in self.priors.items()
        }

    @staticmethod
    def _length(maps: Maps, targets: Maps) -> list[Tensor]:
        metres = targets["length"].float()
        known = (metres > 0) & targets["valid"]
        relative = (LENGTH_SCALE_M * maps["length"].float() - metres).abs() / metres.clamp(min=1.0)
        return [(relative * known).sum(), known.sum().float()]


class DetectionLoss(PointLoss):
    """Centre: penalty-reduced focal loss; vessel: BCE + focal + dice; fishing: BCE at vessels; length: relative error.

    The centre's loss is that of CornerNet (arXiv 1808.01244, eq. 1) on the Gaussian targets, a sum over pixels divided
    by the number of objects.

    Args:
        vessel_weight: Of the vessel's part.
        fishing_weight: Of the fishing part, a mean over the discs of vessels.
        center_weight: Of the centre's part.
        length_weight: Of ``|p − g| / g``.
        focal_weight: Of focal loss beside BCE and dice.
        gamma: Exponent of both focal losses.
        beta: Exponent by which the centre's loss falls near an object.
    """

    center_activation = "sigmoid"

    def __init__(
        self,
        vessel_weight: float = 1.0,
        fishing_weight: float = 1.0,
        center_weight: float = 1.0,
        length_weight: float = 0.5,
        focal_weight: float = 3.0,
        gamma: float = 2.0,
        beta: float = 4.0,
    ) -> None:
        super().__init__()
        at_least(
            0, OPTIONS, vessel_weight=vessel_weight, fishing_weight=fishing_weight, center_weight=center_weight,
            length_weight=length_weight, focal_weight=focal_weight, gamma=gamma, beta=beta,
        )  # fmt: skip
        self.weights = {
            "vessel": vessel_weight, "fishing": fishing_weight, "center": center_weight, "length": length_weight,
        }  # fmt: skip
        self.focal_weight, self.gamma, self.beta = focal_weight, gamma, beta
        self.priors = {"center": 0.01, "vessel": 0.01, "fishing": 0.25, "length": 60.0}

    def statistics(self, maps: Maps, targets: Maps) -> Tensor:
        """Sums over a tile: six for vessel, two each for fishing, centre and length."""
        parts = _flag_sums(maps["vessel"].float(), targets["vessel"], targets["valid"], self.gamma)
        logits, target = maps["fishing"].float(), targets["fishing"]
        asked = (targets["vessel"] == 1) & (target != IGNORE) & targets["valid"]
        bce = F.binary_cross_entropy_with_logits(logits, (target == 1).float(), reduction="none")
        parts += [(bce * asked).sum(), asked.sum().float()]
        parts += _center_sums(maps, targets, self.gamma, self.beta)
        return torch.stack(parts + self._length(maps, targets))

    def total(self, statistics: Tensor, images: int) -> Maps:
        """Losses from the sums: ``loss``, ``vessel``, ``fishing``, ``center``, ``length``."""
        fishing, asked, center, peaks, relative, discs = statistics[6:]
        losses = {
            "vessel": _flag_loss(statistics[:6], self.focal_weight),
            "fishing": fishing / asked.clamp(min=1),
            "center": center / peaks.clamp(min=1),
            "length": relative / discs.clamp(min=1),
        }
        return _weighted(losses, self.weights, statistics)


class ClassLoss(PointLoss):
    """Of objects of classes. Centre: the focal loss of :class:`DetectionLoss`; class: cross entropy at the objects.

    Args:
        center_weight: Of the centre's part.
        class_weight: Of the class's part, a mean over the discs of the objects.
        gamma: Exponent of the focal loss.
        beta: Exponent by which the centre's loss falls near an object.
    """

    center_activation = "sigmoid"

    def __init__(
        self, center_weight: float = 1.0, class_weight: float = 1.0, gamma: float = 2.0, beta: float = 4.0
    ) -> None:
        super().__init__()
        at_least(0, OPTIONS, center_weight=center_weight, class_weight=class_weight, gamma=gamma, beta=beta)
        self.weights, self.priors = {"center": center_weight, "kind": class_weight}, {"center": 0.01}
        self.gamma, self.beta = gamma, beta

    def statistics(self, maps: Maps, targets: Maps) -> Tensor:
        """Sums over a tile: two each for centre and class."""
        kind, logits = targets["kind"][:, 0].long(), maps["kind"].float()
        known = (kind != UNKNOWN) & targets["valid"][:, 0]
        entropy = F.cross_entropy(logits, kind.masked_fill(~known, 0), reduction="none") * known
        return torch.stack([*_center_sums(maps, targets, self.gamma, self.beta), entropy.sum(), known.sum().float()])

    def total(self, statistics: Tensor, images: int) -> Maps:
        """Losses from the sums: ``loss``, ``center``, ``kind``."""
        center, peaks, entropy, known = statistics
        losses = {"center": center / peaks.clamp(min=1), "kind": entropy / known.clamp(min=1)}
        return _weighted(losses, self.weights, statistics)


class PaperDetectionLoss(PointLoss):
    """The recipe as published. Vessel and fishing: BCE + focal + dice; centre: squared error; length: relative error.

    Args:
        vessel_weight: Of the vessel's part.
        fishing_weight: Of the fishing part.
        center_weight: Of the centre's squared errors, in units of 255 at an object, summed over an image.
        length_weight: Of ``|p − g| / g``.
        focal_weight: Of focal loss beside BCE and dice.
        gamma: Exponent of focal loss.
        center_margin: Errors up to this (of 255) are free.
    """

    center_activation = "linear"

    def __init__(
        self,
        vessel_weight: float = 1.0,
        fishing_weight: float = 2.0,
        center_weight: float = 3e-7,
        length_weight: float = 2.0,
        focal_weight: float = 3.0,
        gamma: float = 2.0,
        center_margin: float = 0.1,
    ) -> None:
        super().__init__()
        at_least(
            0, OPTIONS, vessel_weight=vessel_weight, fishing_weight=fishing_weight, center_weight=center_weight,
            length_weight=length_weight, focal_weight=focal_weight, gamma=gamma, center_margin=center_margin,
        )  # fmt: skip
        self.weights = {"vessel": vessel_weight, "fishing": fishing_weight, "center": 1.0, "length": length_weight}
        self.center_weight, self.center_margin = center_weight, center_margin
        self.focal_weight, self.gamma = focal_weight, gamma
        self.priors = {"vessel": 0.01, "fishing": 0.01}

    def statistics(self, maps: Maps, targets: Maps) -> Tensor:
        """Sums over a tile: six for vessel, six for fishing, two for centre, two for length."""
        valid = targets["valid"]
        parts: list[Tensor] = []
        for name in ("vessel", "fishing"):
            parts += _flag_sums(maps[name].float(), targets[name], valid, self.gamma)
        error = CENTER_SCALE * maps["center"].float() - targets["center"].float()
        squared = error.square() * (error.abs() > self.center_margin) * valid
        parts += [squared.sum()]
        return torch.stack(parts + self._length(maps, targets))

    def total(self, statistics: Tensor, images: int) -> Maps:
        """Losses from the sums: ``loss``, ``vessel``, ``fishing``, ``center``, ``length``."""
        squared, relative, discs = statistics[12:]
        losses = {
            "vessel": _flag_loss(statistics[:6], self.focal_weight),
            "fishing": _flag_loss(statistics[6:12], self.focal_weight),
            "center": self.center_weight * squared / images,
            "length": relative / discs.clamp(min=1),
        }
        return _weighted(losses, self.weights, statistics)


def _center_sums(maps: Maps, targets: Maps, gamma: float, beta: float) -> list[Tensor]:
    logits, target, valid = maps["center"].float(), targets["center"].float() / CENTER_SCALE, targets["valid"]
    peak = (target == 1) & valid
    away = -F.logsigmoid(-logits) * logits.sigmoid() ** gamma * (1 - target) ** beta
    at = -F.logsigmoid(logits) * (-logits).sigmoid() ** gamma
    return [(torch.where(peak, at, away) * valid).sum(), peak.sum().float()]


def _flag_sums(logits: Tensor, target: Tensor, valid: Tensor, gamma: float) -> list[Tensor]:
    scored = valid & (target != IGNORE)
    truth = (target == 1).float()
    bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    focal = (1 - torch.exp(-bce)) ** gamma * bce
    probability = logits.sigmoid() * scored
    return [
        (bce * scored).sum(),
        (focal * scored).sum(),
        (probability * truth).sum(),
        probability.sum(),
        (truth * scored).sum(),
        scored.sum().float(),
    ]


def _flag_loss(sums: Tensor, focal_weight: float) -> Tensor:
    bce, focal, both, predicted, true, count = sums
    dice = 1 - (2 * both + 1) / (predicted + true + 1)
    # Without a scored pixel there is nothing to learn.
    loss: Tensor = ((bce + focal_weight * focal) / count.clamp(min=1) + dice) * (count > 0)
    return loss


def _weighted(losses: Maps, weights: dict[str, float], like: Tensor) -> Maps:
    loss = sum((weights[name] * value for name, value in losses.items()), start=like.new_zeros(()))
    return {"loss": loss, **losses}
