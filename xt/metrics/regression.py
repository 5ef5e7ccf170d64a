"""Errors of values that are known of some pixels only, added up in double precision over batches and processes."""

import torch
from torch import Tensor
from torchmetrics import Metric


class Errors(Metric):
    """Of each target: coefficient of determination, root of the mean squared error, mean absolute error, bias.

    Args:
        num_targets: Targets.
    """

    full_state_update = False

    def __init__(self, num_targets: int) -> None:
        super().__init__()
        self.sums: Tensor
        # Pixels, errors, their absolute values, their squares, true values, their squares.
        self.add_state("sums", torch.zeros(6, num_targets, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, found: Tensor, true: Tensor) -> None:
        """Add pixels.

        Args:
            found: ``(B, T, H, W)``.
            true: Likewise, near to a mean of 0, NaN where not known.
        """
        known = true.isfinite()
        true = torch.where(known, true, 0.0).double()
        error = torch.where(known, found.double() - true, 0.0)
        each = known.double(), error, error.abs(), error.square(), true, true.square()
        self.sums += torch.stack([values.sum((0, 2, 3)) for values in each])

    def compute(self) -> dict[str, Tensor]:
        """``r2``, ``rmse``, ``mae`` and ``bias``, ``(T,)`` each; NaN where no pixel is known, or r2 has no meaning."""
        number, error, absolute, squared, true, true_squared = self.sums
        spread = true_squared - true.square() / number
        return {
            "r2": torch.where(spread > 0, 1 - squared / spread, torch.nan),
            "rmse": (squared / number).sqrt(),
            "mae": absolute / number,
            "bias": error / number,
        }
