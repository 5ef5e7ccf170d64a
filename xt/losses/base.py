"""The contract of a dense loss that can be computed tile by tile, exactly."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from xt.errors import ModelError
from xt.plugins import Configurable

OPTIONS = "model.task.init_args.loss.init_args"
"""Where a config has the arguments of a loss."""


class TileLoss(nn.Module, Configurable, ABC):
    """A loss that is a function of sums over pixels.

    The sums are additive over tiles, so an image of any size can be decoded tile by tile and thrown away, and the
    loss (dice included, which is no mean over tiles) and its gradient still equal those of the whole image. They are
    additive over the images of a batch and over processes, too, with the same result.
    """

    def check(self, classes: Sequence[str]) -> None:
        """Compare what the loss was told with the classes that it is to tell apart, if it was told anything of them.

        Raises:
            ConfigError: If they do not fit; names the key, and both numbers.
        """

    @abstractmethod
    def statistics(self, maps: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
        """Sums over the pixels of one tile.

        Args:
            maps: Head name → logits ``(B, C, h, w)``.
            targets: Target name → ``(B, …, h, w)``; ``valid`` ``(B, 1, h, w)`` bool is among them.

        Returns:
            ``(K,)`` float32, differentiable with respect to the maps.
        """

    @abstractmethod
    def total(self, statistics: Tensor, images: int) -> dict[str, Tensor]:
        """Losses from the sums over all tiles: ``{"loss": scalar, component: scalar, ...}``.

        Args:
            statistics: Sums over all tiles of a batch, in data-parallel training those of all processes.
            images: Images that the sums are of.
        """


def check_losses(of: object, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what a loss or a task gave, if it is what it must be.

    Raises:
        ModelError: If it is no dict of numbers with ``loss`` among them.
    """
    if not isinstance(losses, dict):
        fault = f"are a {type(losses).__name__}"
    elif "loss" not in losses:
        fault = f"have no 'loss' ({', '.join(losses)})"
    elif odd := [name for name, each in losses.items() if not isinstance(each, Tensor) or each.ndim]:
        fault = f"have a {odd[0]!r} that is no scalar tensor"
    else:
        return losses
    raise ModelError(f"{type(of).__name__}: its losses {fault}; give a dict of scalar tensors, 'loss' and its parts")
