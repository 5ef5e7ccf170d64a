"""Point detection with attributes: xView3."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xt.data.labels import LabelTable
from xt.data.targets import LENGTH_SCALE_M, CenterActivation
from xt.errors import ConfigError, at_least
from xt.geometry.grid import Window
from xt.losses.base import check_losses
from xt.losses.detection import DetectionLoss, PointLoss
from xt.losses.tokens import ClassTokenLoss, TokenLoss
from xt.metrics.xview3 import SCORES, TOLERANCE, score
from xt.models.metadata import ModelMetadata
from xt.models.xt import XT
from xt.tasks import points
from xt.tasks.base import Batch, Losses, ObjectTask, Product, Valid, Values, painted
from xt.tasks.blocks import find_in_blocks
from xt.tasks.gather import gathered, num_images, summed
from xt.tasks.points import Candidates, Maps, Thresholds, find_candidates
from xt.tasks.preview import Mark, Panel, of_image, of_values, shrinking

if TYPE_CHECKING:
    from xt.data.base import DataModule

MAPS = ("center", "vessel", "fishing", "length")
COLOURS = {"fishing": (214, 39, 40), "vessel": (23, 190, 207), "other": (255, 215, 0)}
"""Of marks."""


class PointDetection(ObjectTask):
    """Finds objects and tells vessel, fishing and length.

    Publishes maps, centre, vessel and fishing in 0..255 and length in metres, and a table of points. What no training
    object teaches (:attr:`~xt.data.base.DataModule.untold`) has no map, and is unknown in the table.

    Args:
        loss: :class:`DetectionLoss` by default; ``PaperDetectionLoss`` is the published recipe.
        token_weight: Of a loss by which the mixed tokens themselves say whether they hold a vessel and whether it
            fishes; 0 for none. The context learns from it long before the decoder tells it anything.
        tolerance: Pixels within which an object counts as found in the scores; that of xView3 by default.

    Raises:
        ConfigError: If the tolerance is not above 0, or the weight below 0.
    """

    kind = "point-detection"
    takes = "points"
    monitor = "aggregate"
    shown = ("fishing_fscore",)
    files = (".csv", ".gpkg", ".geojson")
    of_classes: ClassVar[bool] = False
    """Whether objects have classes of their own."""

    def __init__(self, loss: PointLoss | None = None, token_weight: float = 1.0, tolerance: float = TOLERANCE) -> None:
        super().__init__()
        if not tolerance > 0:
            raise ConfigError(f"model.task.init_args.tolerance is {tolerance}; it must be above 0 pixels")
        at_least(0, "model.task.init_args", token_weight=token_weight)
        self.tolerance = tolerance
        self.loss, self.token_weight = loss or DetectionLoss(), token_weight
        self.center_activation: CenterActivation = self.loss.center_activation
        self.token_loss: TokenLoss | ClassTokenLoss | None = None
        self.maps: tuple[str, ...] = MAPS
        self._thresholds = Thresholds()
        self._found: list[Candidates] = []
        self._truth: list[LabelTable] = []

    @property
    def heads(self) -> dict[str, int]:
        """One channel for each map."""
        return dict.fromkeys(MAPS, 1)

    @property
    def channels(self) -> int:
        """One for each map that is published."""
        return len(self.maps)

    def biases(self) -> dict[str, float]:
        """What the loss believes of a pixel before it has learnt anything."""
        return self.loss.biases()

    def prepare(self, metadata: ModelMetadata) -> None:
        """Take a saved model's thresholds, which maps it has, and how its centre is read."""
        super().prepare(metadata)
        self._thresholds = Thresholds.from_dict(metadata.thresholds)
        self.center_activation = metadata.settings.get("center_activation", self.loss.center_activation)
        self.maps = tuple(metadata.settings.get("maps", MAPS))

    def adopt(self, data: "DataModule") -> None:
        """Leave out the maps that the data cannot teach.

        Raises:
            ConfigError: If they do not give points, or give some of classes of their own.
        """
        super().adopt(data)
        if data.classes and not self.of_classes:
            name = type(self).__name__
            raise ConfigError(
                f"data.init_args.classes: {name} tells no classes; take ObjectDetection, or leave them out"
            )
        self.maps = tuple(name for name in MAPS if name not in data.untold)

    def attach(self, model: XT) -> None:
        """Make the head that reads the tokens."""
        encoder = model.region_encoder
        if self.token_weight:
            self.token_loss = TokenLoss(encoder.channels[-1], encoder.strides[-1], self.token_weight)

    def thresholds(self) -> dict[str, float]:
        """Thresholds tuned at the last validation."""
        return self._thresholds.to_dict()

    def settings(self) -> dict[str, Any]:
        """How the centre's head is read, and which maps are published."""
        return {"center_activation": self.center_activation, "maps": list(self.maps)}

    def losses(self, model: XT, batch: Batch) -> Losses:
        """Losses of a batch, decoded tile by tile; ``tokens`` is that of the last stage."""
        targets = batch["targets"] | {"valid": batch["valid"]}
        pyramid = model.mix(model.encode(batch["image"], batch["valid"]))
        sums = model.reduce(pyramid, targets, self.loss.statistics)
        losses = check_losses(self.loss, self.loss.total(summed(sums), num_images(batch["image"])))
        if self.token_loss is not None:
            losses["tokens"] = self.token_loss.total(summed(self.token_loss.statistics(pyramid.maps[-1], targets)))
            losses["loss"] = losses["loss"] + losses["tokens"]
        return losses

    def measure(self, model: XT, batch: Batch) -> Mapping[str, Tensor] | None:
        """Collect the candidates of each tile."""
        raw: dict[str, Tensor] = model(batch["image"], batch["valid"])
        for i in range(len(batch["name"])):
            known = self._known(batch, i, {name: each[i] for name, each in raw.items()})
            self._found.append(find_candidates(known, batch["scene_id"][i], batch["origin"][i]))
            self._truth.append(batch["points"][i])
        return raw

    def preview(self, batch: Batch, index: int, raw: Mapping[str, Tensor]) -> list[Panel]:
        """The image with rings around the objects and crosses on those found, and the map of centres."""
        image, valid, origin = batch["image"][index], batch["valid"][index], batch["origin"][index]
        known = self._known(batch, index, raw)
        candidates, truth = find_candidates(known, batch["scene_id"][index], origin), batch["points"][index]

        def marks() -> list[Mark]:
            found = self.decide(candidates)
            return [*self._marks(truth, origin, False), *self._marks(found, origin, True)]

        scale = shrinking(*image.shape[-2:])
        title = f"{batch['name'][index]}\n{self.legend()}"
        return [
            Panel(title, of_image(image, valid), scale, marks),
            Panel("centres", of_values(known["center"], valid, 255.0), scale),
        ]

    def scores(self, data: "DataModule", tune: bool) -> dict[str, float]:
        """Scores of the xView3 metric, without those of what the model or the data do not tell."""
        found, truth = Candidates.concatenate(gathered(self._found)), LabelTable.concatenate(gathered(self._truth))
        self._found, self._truth = [], []
        if tune:
            self._thresholds = points.tune(found, truth, self.tolerance)
        result = score(self.decide(found), truth, data.shoreline, tolerance=self.tolerance)
        left = {SCORES[name] for name in SCORES if name not in self.maps}
        left |= {"loc_fscore_shore"} if data.shoreline is None else set()
        return {
            name: value for name, value in result.to_dict().items() if isinstance(value, float) and name not in left
        }

    @property
    def product(self) -> Product:
        """The maps."""
        return Product(self.maps, "float32", float("nan"))

    def activate(self, raw: Mapping[str, Tensor]) -> Values:
        """Scale the maps: 0..255, and metres."""
        maps = self._scaled(raw)
        values: Values = torch.cat([maps[name] for name in self.maps]).cpu().numpy()
        return values

    def paint(self, values: Values, valid: Valid) -> npt.NDArray[Any]:
        """The maps, NaN where nothing is valid."""
        return painted(values, valid, self.product)

    def published(self, raw: Mapping[str, Tensor], valid: Tensor) -> dict[str, Tensor]:
        """The maps ``(B, H, W)``, NaN where nothing is valid."""
        maps = self._scaled(raw)
        return {name: maps[name][:, 0].masked_fill(~valid, torch.nan) for name in self.maps}

    def _scaled(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Raw maps on the scale of the targets, where they are: 0..255, and metres for ``length``."""
        maps = {name: 255 * raw[name].float().sigmoid() for name in ("center", "vessel", "fishing")}
        if self.center_activation == "linear":
            maps["center"] = (255 * raw["center"].float()).clamp(0, 255)
        maps["length"] = (LENGTH_SCALE_M * raw["length"].float()).clamp(min=0)
        return maps

    def _known(self, batch: Batch, index: int, raw: Mapping[str, Tensor]) -> dict[str, npt.NDArray[np.float32]]:
        """Maps of an image; as in prediction what has no data is 0, and holds no object."""
        return dict(zip(self.maps, self.activate(raw) * batch["valid"][index].cpu().numpy(), strict=True))

    def find(self, read: Callable[[Window], npt.NDArray[Any]], height: int, width: int, name: str) -> LabelTable:
        """Find the points that the thresholds accept."""

        def maps(window: Window) -> Maps:
            return dict(zip(self.maps, np.nan_to_num(read(window), copy=False), strict=True))

        return self.decide(find_in_blocks(maps, height, width, name))

    def decide(self, candidates: Candidates) -> LabelTable:
        """Keep the objects among them, and say what each is."""
        return candidates.decide(self._thresholds)

    def colour(self, kind: str) -> tuple[int, int, int]:
        """Of the marks of a kind of objects."""
        return COLOURS[kind]

    def legend(self) -> str:
        """What marks mean."""
        return "o there, + found; red fishing, blue vessel, yellow other"

    def _marks(self, table: LabelTable, origin: tuple[int, int], found: bool) -> list[Mark]:
        return [
            Mark(float(row) - origin[0], float(column) - origin[1], self.colour(str(kind)), found)
            for row, column, kind in zip(table.row, table.column, table.kinds, strict=True)
        ]
