"""Supervision of the tokens themselves: what a cell of the last stage should know after the context has mixed it.

Dense heads teach the context only through the decoder, which first has to learn to pass something on; on scenes where
far context decides, 270 steps of that left it at chance. A linear head on the mixed tokens teaches it directly, as deep
supervision does (arXiv 1409.5185). The head serves training alone and is not part of the saved model.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xt.data.targets import CENTER_SCALE, IGNORE, UNKNOWN


class _CellLoss(nn.Module):
    """A linear head on the mixed tokens, whose first output says whether a cell holds something."""

    def __init__(self, channels: int, stride: int, outputs: int, weight: float, positive_weight: float) -> None:
        super().__init__()
        self.stride, self.weight, self.positive_weight = stride, weight, positive_weight
        self.head = nn.Conv2d(channels, outputs, 1)

    def total(self, sums: Tensor) -> Tensor:
        """The loss of the sums: of what is held and of its kind, each before its weight."""
        holds, seen, kind, known = sums
        loss: Tensor = self.weight * (holds / seen.clamp(min=1) + kind / known.clamp(min=1))
        return loss

    def _held(self, logits: Tensor, holds: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of BCE and of its weight over cells."""
        bce = F.binary_cross_entropy_with_logits(logits, holds, reduction="none")
        weight = seen * (1 + (self.positive_weight - 1) * holds)
        return (bce * weight).sum(), weight.sum()

    def _cells(self, pixels: Tensor, like: Tensor) -> Tensor:
        """The largest value of the pixels ``(B, 1, H, W)`` in each cell of a map."""
        bottom, right = (n * self.stride - m for n, m in zip(like.shape[-2:], pixels.shape[-2:], strict=True))
        return F.max_pool2d(F.pad(pixels.float(), (0, right, 0, bottom)), self.stride)


class TokenLoss(_CellLoss):
    """BCE of "this cell holds a vessel" over all cells, and of "it fishes" over the cells of vessels.

    Args:
        channels: Of the map of the last stage.
        stride: Pixels per cell.
        weight: Of both.
        positive_weight: Of a cell that holds a vessel against one that holds none.
    """

    def __init__(self, channels: int, stride: int, weight: float = 1.0, positive_weight: float = 20.0) -> None:
        super().__init__(channels, stride, 2, weight, positive_weight)

    def statistics(self, mixed: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """Sums over mixed maps ``(B, channels, h, w)`` and detection targets ``(B, 1, H, W)``."""
        place = (targets["center"] == CENTER_SCALE) & (targets["vessel"] == 1) & targets["valid"]
        pixels = {
            "holds": place,
            "asked": place & (targets["fishing"] != IGNORE),
            "fishing": place & (targets["fishing"] == 1),
            "seen": targets["valid"],
        }
        return self.of_cells(mixed, {name: self._cells(each, mixed) for name, each in pixels.items()})

    def of_cells(self, mixed: Tensor, cells: dict[str, Tensor]) -> Tensor:
        """Sums over cells: both losses and their weights.

        Args:
            mixed: ``(B, channels, h, w)``.
            cells: ``holds``, ``asked``, ``fishing``, ``seen``: ``(B, 1, h, w)`` of 0 and 1
                (:func:`xt.data.targets.cell_targets`).
        """
        logits = self.head(mixed).float()
        asked = cells["asked"] * cells["seen"]
        kind = F.binary_cross_entropy_with_logits(logits[:, 1:], cells["fishing"], reduction="none")
        return torch.stack(
            [*self._held(logits[:, :1], cells["holds"], cells["seen"]), (kind * asked).sum(), asked.sum()]
        )


class ClassTokenLoss(_CellLoss):
    """BCE of "this cell holds an object" over all cells, and cross entropy of its class over the cells of objects.

    Args:
        channels: Of the map of the last stage.
        stride: Pixels per cell.
        classes: How many there are. A cell that holds several takes the one with the highest number.
        weight: Of both.
        positive_weight: Of a cell that holds an object against one that holds none.
    """

    def __init__(
        self, channels: int, stride: int, classes: int, weight: float = 1.0, positive_weight: float = 20.0
    ) -> None:
        super().__init__(channels, stride, 1 + classes, weight, positive_weight)

    def statistics(self, mixed: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """Sums over mixed maps ``(B, channels, h, w)`` and targets ``(B, 1, H, W)`` of classes."""
        place = (targets["center"] == CENTER_SCALE) & targets["valid"]
        known = place & (targets["kind"] != UNKNOWN)
        kind = self._cells((targets["kind"].int() + 1) * known, mixed)[:, 0].long()  # 0 for none
        logits = self.head(mixed).float()
        held = self._held(logits[:, :1], self._cells(place, mixed), self._cells(targets["valid"], mixed))
        entropy = F.cross_entropy(logits[:, 1:], (kind - 1).clamp(min=0), reduction="none") * (kind > 0)
        return torch.stack([*held, entropy.sum(), (kind > 0).sum().float()])
