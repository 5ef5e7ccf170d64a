"""Trains the context encoder alone, on tokens that a frozen region encoder left on disk."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xt.data.tokens import TokenData
from xt.errors import CheckpointError, ConfigError, ModelError
from xt.geometry.grid import RegionGrid
from xt.losses.tokens import TokenLoss
from xt.models.checkpoint import encoder_sha256, load_model
from xt.models.context.base import ContextEncoder
from xt.models.context_block import ContextBlock
from xt.models.metadata import ModelMetadata
from xt.training.task import TrainingTask


class ContextTraining(TrainingTask):
    """Teaches a new context encoder what cells of vessels should know; the rest of the model stays as it is.

    The tokens are those that ``xt features`` made with the same model. What is saved is that model with the new
    context, so ``xt predict`` takes it and ``init_from`` of the other tasks tunes all its parts together.

    Args:
        init_from: Run folder or model folder whose region encoder made the tokens.
        context: Mixes all regions; ``dim`` is supplied.
        context_dim: Channels of a token inside the context.
        lr: Highest learning rate.
        weight_decay: Of AdamW.
        warmup_steps: Steps over which the learning rate rises.
    """

    kind = "point-detection"
    monitor = "val/fishing_f1"

    def __init__(
        self,
        init_from: str,
        context: Callable[[int], ContextEncoder],
        context_dim: int = 768,
        lr: float = 1e-3,
        weight_decay: float = 1e-2,
        warmup_steps: int = 50,
    ) -> None:
        model, metadata = load_model(init_from)
        if metadata.task != self.kind:
            raise ConfigError(f"model.init_args.init_from {init_from} is for {metadata.task}, not for {self.kind}")
        super().__init__(None, lr, weight_decay, warmup_steps)
        encoder = model.region_encoder
        self._metadata, self._encoder = metadata, encoder_sha256(model, metadata)
        self.model = model.requires_grad_(False)
        self.model.context = ContextBlock(encoder.channels[-1], context(context_dim), False, project_back=True)
        self.token_loss = TokenLoss(encoder.channels[-1], encoder.strides[-1])
        self._said: list[Tensor] = []
        self._true: list[Tensor] = []

    def check_data(self) -> None:
        """Compare what made the tokens with the model.

        Raises:
            ModelError: If another region encoder made them.
        """
        if not isinstance(self.data, TokenData):
            raise ModelError(f"ContextTraining takes tokens, not {type(self.data).__name__}; set data to TokenData")
        for facts in self.data.facts:
            if facts.encoder != self._encoder:
                raise ModelError(
                    f"the tokens of {facts.scene} are of another model than init_from; "
                    "make them with it: xt features … --overwrite"
                )

    def metadata(self) -> ModelMetadata:
        """What the model had before."""
        return self._metadata

    def load_beside(self, state: dict[str, Tensor] | None, source: str) -> None:
        """Take back the head that reads the tokens.

        Raises:
            CheckpointError: If the model was saved without it, or it does not fit.
        """
        if state is None:
            raise CheckpointError(f"{source} has no training.safetensors, which reads its tokens; train it again")
        super().load_beside(state, source)

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The token loss of a batch of scenes."""
        return {"loss": self.token_loss.of_cells(self._logits(batch), batch["cells"])}

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Collect what is said of the cells whose answer is known."""
        asked = (batch["cells"]["asked"] * batch["cells"]["seen"]) > 0
        self._said.append(self._logits(batch)[:, 1:][asked] > 0)
        self._true.append(batch["cells"]["fishing"][asked] > 0)

    def on_validation_epoch_end(self) -> None:
        """Log F1 and accuracy of fishing, and the F1 of calling every vessel fishing."""
        self._report("val")

    def test_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Collect as in validation."""
        self.validation_step(batch, batch_index)

    def on_test_epoch_end(self) -> None:
        """Log as in validation."""
        self._report("test")

    def _logits(self, batch: dict[str, Any]) -> Tensor:
        side = self.model.region_size // self.model.region_encoder.strides[-1]
        tokens, exists = batch["tokens"], batch["exists"]
        height, width = (n // side * self.model.region_size for n in tokens.shape[-2:])
        grid = RegionGrid(height, width, self.model.region_size)
        mixed = self.model.mix(tokens, grid, [tuple(each.flatten().tolist()) for each in exists])
        logits: Tensor = self.token_loss.head(mixed).float()
        return logits

    def _report(self, stage: str) -> None:
        said, true = torch.cat(self._said), torch.cat(self._true)
        self._said, self._true = [], []
        hits = (said & true).sum()
        values = {
            "fishing_f1": 2 * hits / (said.sum() + true.sum()).clamp(min=1),
            "accuracy": (said == true).float().mean(),
            "all_fishing_f1": 2 * true.sum() / (len(true) + true.sum()).clamp(min=1),
        }
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()})
