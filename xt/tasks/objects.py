"""Point detection of one's own classes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from xt.data.labels import LabelTable
from xt.errors import ConfigError
from xt.losses.detection import ClassLoss
from xt.losses.tokens import ClassTokenLoss
from xt.metrics.objects import class_scores
from xt.metrics.xview3 import TOLERANCE
from xt.models.metadata import ModelMetadata
from xt.models.xt import XT
from xt.tasks.detection import PointDetection
from xt.tasks.gather import gathered
from xt.tasks.points import GRID, OF_CLASS, Candidates, Thresholds
from xt.tasks.preview import class_colours

if TYPE_CHECKING:
    from xt.data.base import DataModule


class ObjectDetection(PointDetection):
    """Finds objects and tells their class.

    Publishes maps in 0..255, of centres and of each class, and a table of points with their class. What a class's map
    says counts at objects alone.

    Args:
        loss: :class:`ClassLoss` by default.
        token_weight: Of a loss by which the mixed tokens themselves say whether they hold an object and of which class;
            0 for none.
        tolerance: Pixels within which an object counts as found in the scores.

    Raises:
        ConfigError: If the tolerance is not above 0.
    """

    kind = "object-detection"
    class_heads = ("kind",)
    monitor = "f1"
    shown = ("loc_f1",)
    of_classes = True

    def __init__(self, loss: ClassLoss | None = None, token_weight: float = 1.0, tolerance: float = TOLERANCE) -> None:
        super().__init__(loss or ClassLoss(), token_weight, tolerance)

    @property
    def heads(self) -> dict[str, int]:
        """The centre, and a channel for each class."""
        return {"center": 1, "kind": len(self.classes)}

    def prepare(self, metadata: ModelMetadata) -> None:
        """Take classes and thresholds."""
        super().prepare(metadata)
        self.maps = ("center", *(OF_CLASS + name for name in self.classes))

    def adopt(self, data: "DataModule") -> None:
        """Take the data.

        Raises:
            ConfigError: If they do not give points of at least two classes.
        """
        super().adopt(data)
        if len(data.classes) < 2:
            raise ConfigError("data.init_args.classes: ObjectDetection learns at least two; for one, PointDetection")

    def attach(self, model: XT) -> None:
        """Make the head that reads the tokens."""
        encoder = model.region_encoder
        if self.token_weight:
            sizes = encoder.channels[-1], encoder.strides[-1], len(self.classes)
            self.token_loss = ClassTokenLoss(*sizes, self.token_weight)

    def thresholds(self) -> dict[str, float]:
        """That of the centre, tuned at the last validation."""
        return {"center": self._thresholds.center}

    def settings(self) -> dict[str, Any]:
        """Nothing beside classes and thresholds."""
        return {}

    def scores(self, data: "DataModule", tune: bool) -> dict[str, float]:
        """F1 of places and classes."""
        found, truth = Candidates.concatenate(gathered(self._found)), LabelTable.concatenate(gathered(self._truth))
        self._found, self._truth = [], []

        def scored(center: float) -> dict[str, float]:
            table = found.named(self.classes).decide(Thresholds(center))
            return class_scores(table, truth, self.classes, self.tolerance)

        if tune:
            self._thresholds = Thresholds(max(GRID, key=lambda value: scored(value)["f1"]))
        return scored(self._thresholds.center)

    def decide(self, candidates: Candidates) -> LabelTable:
        """Keep the objects among them, with the class of which the maps say most."""
        return candidates.named(self.classes).decide(self._thresholds)

    def colour(self, kind: str) -> tuple[int, int, int]:
        """Of the marks of a class."""
        return class_colours(len(self.classes) + 1)[1 + self.classes.index(kind)]

    def legend(self) -> str:
        """What marks mean."""
        return "o there, + found; a colour for each class"

    def _scaled(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        shares = 255 * raw["kind"].float().softmax(-3)
        maps = {OF_CLASS + name: shares[..., k : k + 1, :, :] for k, name in enumerate(self.classes)}
        return {"center": 255 * raw["center"].float().sigmoid(), **maps}
