"""Trains the context encoder alone, on tokens that a frozen region encoder left on disk."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xt.data.tokens import TokenData
from xt.errors import ConfigError, ModelError
from xt.geometry.grid import RegionGrid
from xt.losses.tokens import TokenLoss
from xt.models.checkpoint import encoder_sha256
from xt.models.metadata import ModelMetadata
from xt.models.xt import XT
from xt.tasks.base import Batch, Losses
from xt.tasks.detection import PointDetection
from xt.tasks.gather import gathered, summed

if TYPE_CHECKING:
    from xt.data.base import DataModule


class TokenDetection(PointDetection):
    """Teaches a context encoder what cells of vessels should know, on tokens made by ``xt features``.

    The model must start from the one that made the tokens (``init_from``). What is saved is that model with the new
    context, for :class:`PointDetection`: ``xt predict`` takes it, and ``init_from`` tunes all its parts together.
    """

    takes = "tokens"
    monitor = "fishing_f1"
    shown = ("fishing_f1",)
    learns = ("context",)

    def __init__(self) -> None:
        super().__init__()
        self._said: list[Tensor] = []
        self._true: list[Tensor] = []

    def adopt(self, data: "DataModule") -> None:
        """Take the tokens' model for what it is.

        Raises:
            ConfigError: If it was made for another task.
        """
        super().adopt(data)
        kind = (data.described or {}).get("mlm:tasks")
        if kind != [self.kind]:
            raise ConfigError(f"data: the tokens are of a model for {kind}, not for {self.kind}")

    def check(self, model: XT, metadata: ModelMetadata, data: "DataModule") -> None:
        """Compare what made the tokens with the model.

        Raises:
            ModelError: If another region encoder made them.
        """
        assert isinstance(data, TokenData)
        digest = encoder_sha256(model, metadata)
        for facts in data.facts:
            if facts.encoder != digest:
                raise ModelError(
                    f"the tokens of {facts.scene} are of another model than init_from; "
                    "make them with it: xt features … --overwrite"
                )

    def losses(self, model: XT, batch: Batch) -> Losses:
        """The token loss of a batch of scenes."""
        assert isinstance(self.token_loss, TokenLoss)
        return {"loss": self.token_loss.total(summed(self.token_loss.of_cells(_mixed(model, batch), batch["cells"])))}

    def measure(self, model: XT, batch: Batch) -> None:
        """Collect what is said of the cells whose answer is known; there is no image to show."""
        assert self.token_loss is not None
        asked = (batch["cells"]["asked"] * batch["cells"]["seen"]) > 0
        fishing = self.token_loss.head(_mixed(model, batch)).float()[:, 1:]
        self._said.append((fishing[asked] > 0).cpu())
        self._true.append((batch["cells"]["fishing"][asked] > 0).cpu())

    def scores(self, data: "DataModule", tune: bool) -> dict[str, float]:
        """F1 and accuracy of fishing over the cells of vessels, and the F1 of calling every vessel fishing."""
        said, true = torch.cat(gathered(self._said)), torch.cat(gathered(self._true))
        self._said, self._true = [], []
        hits, both = (said & true).sum(), said.sum() + true.sum()
        return {
            "fishing_f1": float(2 * hits / both.clamp(min=1)),
            "accuracy": float((said == true).float().mean()),
            "all_fishing_f1": float(2 * true.sum() / (len(true) + true.sum()).clamp(min=1)),
        }


def _mixed(model: XT, batch: Batch) -> Tensor:
    side = model.region_size // model.region_encoder.strides[-1]
    tokens, exists = batch["tokens"], batch["exists"]
    height, width = (n // side * model.region_size for n in tokens.shape[-2:])
    grid = RegionGrid(height, width, model.region_size)
    return model.mix_features(tokens, grid, [tuple(each.flatten().tolist()) for each in exists])
