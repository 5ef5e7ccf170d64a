"""Point detection of one's own classes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
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
        self._of_classes: dict[str, float] = {}

    @property
    def heads(self) -> dict[str, int]:
        """The centre, and a channel for each class."""
        return {"center": 1, "kind": len(self.classes)}

    def prepare(self, metadata: ModelMetadata) -> None:
        """Take classes and thresholds."""
        of_classes = {name: value for name, value in metadata.thresholds.items() if name.startswith(OF_CLASS)}
        others = {name: value for name, value in metadata.thresholds.items() if name not in of_classes}
        super().prepare(replace(metadata, thresholds=others))
        self.maps = ("center", *(OF_CLASS + name for name in self.classes))
        self._of_classes = {name.removeprefix(OF_CLASS): value for name, value in of_classes.items()}

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
        """Of the centre, tuned at the last validation: one for each class that it held, and one for the others."""
        of_classes = {OF_CLASS + name: value for name, value in self._of_classes.items()}
        return {"center": self._thresholds.center, **of_classes}

    def settings(self) -> dict[str, Any]:
        """Nothing beside classes and thresholds."""
        return {}

    def scores(self, data: "DataModule", tune: bool) -> dict[str, float]:
        """F1 of places and classes."""
        found, truth = Candidates.concatenate(gathered(self._found)), LabelTable.concatenate(gathered(self._truth))
        self._found, self._truth = [], []

        def scored() -> dict[str, float]:
            return class_scores(self.decide(found), truth, self.classes, self.tolerance)

        if tune:
            self._of_classes, tried = {}, {}
            for value in GRID:
                self._thresholds = Thresholds(value)
                tried[value] = scored()
            center = max(GRID, key=lambda value: tried[value]["f1"])
            self._thresholds = Thresholds(center)
            near = sorted(GRID, key=lambda value: abs(value - center))  # of equals the nearest
            for name in {*self.classes} & {*truth.label.tolist()}:
                self._of_classes[name] = max(near, key=lambda value: tried[value].get(f"f1_{name}", 0.0))
        return scored()

    def decide(self, candidates: Candidates) -> LabelTable:
        """Keep the objects among them, with the class of which the maps say most."""
        table = candidates.named(self.classes).decide(Thresholds(0.0))
        limits = [self._of_classes.get(name, self._thresholds.center) for name in table.label.tolist()]
        return table.select(table.score > np.array(limits))

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
