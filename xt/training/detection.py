"""Point detection with attributes: xView3."""

from typing import Any

from torch import Tensor

from xt.data.labels import LabelTable
from xt.losses.detection import DetectionLoss, PointLoss
from xt.losses.tokens import TokenLoss
from xt.metrics.points import Candidates, Thresholds, find_candidates, scaled, tune
from xt.metrics.xview3 import XView3Score, score
from xt.models.checkpoint import PARTS
from xt.models.factory import ModelConfig
from xt.training.task import TrainingTask

HEADS = {"center": 1, "vessel": 1, "fishing": 1, "length": 1}


class PointDetection(TrainingTask):
    """Finds objects and tells vessel, fishing and length.

    Args:
        model: Parts of the model.
        loss: :class:`DetectionLoss` by default; ``PaperDetectionLoss`` is the published recipe.
        token_weight: Of a loss by which the mixed tokens themselves say whether they hold a vessel and whether it
            fishes; 0 for none. The context learns from it long before the decoder tells it anything.
        lr: Highest learning rate.
        weight_decay: Of AdamW.
        warmup_steps: Steps over which the learning rate rises.
        init_from: Run folder or model folder whose weights the training starts from.
        init_parts: Parts whose weights are taken.
    """

    kind = "point-detection"
    monitor = "val/aggregate"

    def __init__(
        self,
        model: ModelConfig,
        loss: PointLoss | None = None,
        token_weight: float = 1.0,
        lr: float = 2e-4,
        weight_decay: float = 1e-4,
        warmup_steps: int = 100,
        init_from: str | None = None,
        init_parts: tuple[str, ...] = PARTS,
    ) -> None:
        super().__init__(model, lr, weight_decay, warmup_steps, init_from, init_parts)
        self.loss = loss or DetectionLoss()
        self.build(HEADS, self.loss.biases())
        encoder = self.model.region_encoder
        self.token_loss = TokenLoss(encoder.channels[-1], encoder.strides[-1], token_weight) if token_weight else None
        self._found: list[Candidates] = []
        self._truth: list[LabelTable] = []
        self._thresholds = Thresholds()

    def thresholds(self) -> dict[str, float]:
        """Thresholds tuned at the last validation."""
        return self._thresholds.to_dict()

    def more_metadata(self) -> dict[str, Any]:
        """How the centre's head is read."""
        return {"center_activation": self.loss.center_activation}

    def set_thresholds(self, values: dict[str, float]) -> None:
        """Take the thresholds of a saved model."""
        self._thresholds = Thresholds.from_dict(values)

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of a batch, decoded tile by tile; ``tokens`` is that of the last stage."""
        targets = batch["targets"] | {"valid": batch["valid"]}
        pyramid = self.model.features(batch["image"], batch["valid"])
        losses = self.loss.total(self.model.reduce(batch["image"], pyramid, targets, self.loss.statistics))
        if self.token_loss is not None:
            losses["tokens"] = self.token_loss(pyramid[-1], targets)
            losses["loss"] = losses["loss"] + losses["tokens"]
        return losses

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Collect the candidates of a tile."""
        maps = self.model(batch["image"], batch["valid"])
        for i in range(len(batch["name"])):
            raw = {name: values[i, 0].float().cpu().numpy() for name, values in maps.items()}
            valid = batch["valid"][i, 0].cpu().numpy()
            # As in prediction: what has no data is 0, and holds no object.
            known = {name: values * valid for name, values in scaled(raw, self.loss.center_activation).items()}
            self._found.append(find_candidates(known, batch["scene_id"][i], batch["origin"][i]))
            self._truth.append(batch["points"][i])

    def on_validation_epoch_end(self) -> None:
        """Tune the thresholds, in training alone, and score all scenes."""
        found, truth = Candidates.concatenate(self._found), LabelTable.concatenate(self._truth)
        self._found, self._truth = [], []
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self._thresholds = tune(found, truth)
        result = score(found.decide(self._thresholds), truth, self.data.shoreline)
        self.log_dict({f"val/{name}": float(value) for name, value in shown(result).items()})
        self.log("val/fishing", result.fishing_fscore, prog_bar=True, logger=False)

    def test_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Collect the candidates of a tile."""
        self.validation_step(batch, batch_index)

    def on_test_epoch_end(self) -> None:
        """Score all scenes with the thresholds tuned before."""
        found, truth = Candidates.concatenate(self._found), LabelTable.concatenate(self._truth)
        self._found, self._truth = [], []
        result = score(found.decide(self._thresholds), truth, self.data.shoreline)
        self.log_dict({f"test/{name}": float(value) for name, value in shown(result).items()})


def shown(result: XView3Score) -> dict[str, float]:
    """The scores that are logged."""
    return {name: value for name, value in result.to_dict().items() if isinstance(value, float)}
