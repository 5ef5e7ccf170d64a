"""Loss of regression: Huber's, as sums over tiles."""

import torch
import torch.nn.functional as F
from torch import Tensor

from xt.errors import ConfigError
from xt.losses.base import OPTIONS, TileLoss


class RegressionLoss(TileLoss):
    """Mean over targets of the mean over their known pixels of Huber's loss (1964), in deviations of the target.

    Args:
        delta: Errors up to so many deviations count squared, larger ones as they are.
    """

    def __init__(self, delta: float = 1.0) -> None:
        super().__init__()
        if not delta > 0:
            raise ConfigError(f"{OPTIONS}.delta is {delta}; it must be above 0")
        self.delta = delta

    def statistics(self, maps: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
        """Sums over a tile: per target the loss, then per target its pixels.

        Args:
            maps: ``value`` ``(B, T, h, w)``, in deviations from the mean.
            targets: ``value`` likewise, NaN where not known, and ``valid`` ``(B, 1, h, w)``.
        """
        found, wanted = maps["value"].float(), targets["value"]
        known = targets["valid"] & wanted.isfinite()
        wanted = torch.where(known, wanted, 0.0)
        loss = torch.where(known, F.huber_loss(found, wanted, reduction="none", delta=self.delta), 0.0)
        return torch.cat([loss.sum((0, 2, 3)), known.sum((0, 2, 3)).to(loss)])

    def total(self, statistics: Tensor, images: int) -> dict[str, Tensor]:
        """The ``loss``; a target of which nothing is known adds nothing."""
        losses, pixels = statistics.view(2, -1)
        return {"loss": (losses / pixels.clamp(min=1)).sum() / (pixels > 0).sum().clamp(min=1)}
