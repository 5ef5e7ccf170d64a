"""Regression of pixels: heights, biomass, an index, whatever is a number of each."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xt.errors import ConfigError, ModelError
from xt.losses.base import TileLoss, check_losses
from xt.losses.regression import RegressionLoss
from xt.models.metadata import ModelMetadata
from xt.models.xt import XT
from xt.tasks.base import Batch, Losses, Product, Task, Valid, Values, painted
from xt.tasks.gather import num_images, summed
from xt.tasks.preview import Panel, of_image, of_values

if TYPE_CHECKING:
    from xt.data.base import DataModule


class PixelRegression(Task):
    """Gives every pixel one or more numbers, in the unit of the rasters that it learnt from.

    The model works in deviations from the mean of the training pixels; both travel with it.

    Args:
        loss: Huber's by default.
        limits: Lowest and highest number that is published and scored; none by default.
    """

    kind = "regression"
    class_heads = ("value",)
    takes = "values"
    monitor = "r2"
    shown = ("r2",)

    def __init__(self, loss: TileLoss | None = None, limits: tuple[float | None, float | None] = (None, None)) -> None:
        super().__init__()
        self.loss = loss or RegressionLoss()
        low, high = limits
        if low is not None and high is not None and not low < high:
            raise ConfigError(f"model.task.init_args.limits is {list(limits)}; the first must be below the second")
        self.limits = low, high
        self.targets: tuple[str, ...] = ()
        self.mean: tuple[float, ...] = ()
        self.std: tuple[float, ...] = ()

    @property
    def heads(self) -> dict[str, int]:
        """One channel for each target."""
        return {"value": len(self.targets)}

    @property
    def channel_names(self) -> tuple[str, ...]:
        """The targets."""
        return self.targets

    def adopt(self, data: "DataModule") -> None:
        """Take the names of the targets, their mean and deviation.

        Raises:
            ConfigError: If the data give no values, or say of them what cannot be.
        """
        from xt.metrics.regression import Errors

        super().adopt(data)
        self.targets, self.mean, self.std = data.targets, data.target_mean, data.target_std
        if not len(self.targets) == len(self.mean) == len(self.std):
            raise ConfigError(
                f"data: {len(self.targets)} targets, {len(self.mean)} target_mean and {len(self.std)} target_std; give "
                "one of each"
            )
        if not all(0 < each < math.inf for each in self.std):
            raise ConfigError(f"data: target_std is {list(self.std)}; each must be above 0; values must differ")
        self.errors = Errors(len(self.targets))

    def prepare(self, metadata: ModelMetadata) -> None:
        """Take them from a saved model."""
        super().prepare(metadata)
        told = metadata.settings
        names = ("targets", "target_mean", "target_std")
        self.targets, self.mean, self.std = (tuple(told.get(name, ())) for name in names)
        self.limits = tuple(told.get("limits", self.limits))

    def settings(self) -> dict[str, Any]:
        """Names of the targets, their mean and deviation, and the limits."""
        return {
            "targets": list(self.targets),
            "target_mean": list(self.mean),
            "target_std": list(self.std),
            "limits": list(self.limits),
        }

    def check(self, model: XT, metadata: ModelMetadata, data: "DataModule") -> None:
        """Compare the targets.

        Raises:
            ModelError: If they differ.
        """
        if len(data.targets) != len(self.targets):
            raise ModelError(
                f"the data have {len(data.targets)} targets ({', '.join(data.targets)}), the model was trained on "
                f"{len(self.targets)} ({', '.join(self.targets)}); take data like those it was trained on"
            )
        if data.targets != self.targets:
            raise ModelError(
                f"the data have the targets {', '.join(data.targets)}, the model {', '.join(self.targets)}; "
                "give them as it has them"
            )

    def losses(self, model: XT, batch: Batch) -> Losses:
        """Loss of a batch, decoded tile by tile."""
        targets = {"value": self._scaled(batch["values"]), "valid": batch["valid"]}
        sums = model.statistics(batch["image"], targets, self.loss.statistics, batch["valid"])
        return check_losses(self.loss, self.loss.total(summed(sums), num_images(batch["image"])))

    def measure(self, model: XT, batch: Batch) -> Mapping[str, Tensor]:
        """Add up the errors of known pixels that have data."""
        raw: dict[str, Tensor] = model(batch["image"], batch["valid"])
        true = batch["values"].masked_fill(~batch["valid"], torch.nan)
        self.errors.update(self._scaled(self._published(raw["value"])), self._scaled(true))
        return raw

    def scores(self, data: "DataModule", tune: bool) -> dict[str, float]:
        """R², root mean squared error, mean absolute error and bias; of several targets each and the means of R²."""
        found: dict[str, float] = {}
        measured = self.errors.compute()
        self.errors.reset()
        for name, values in measured.items():
            unit = values.new_tensor(1.0 if name == "r2" else self.std)
            each = dict(zip(self.targets, (values * unit).view(-1).tolist(), strict=True))
            if len(each) > 1:
                found |= {f"{name}_{target}": value for target, value in each.items()}
            if name == "r2" or len(each) == 1:
                found[name] = float(np.mean(list(each.values())))
        return found

    def preview(self, batch: Batch, index: int, raw: Mapping[str, Tensor]) -> list[Panel]:
        """The image, and of each target what is true and what is said, in the same greys."""
        image, valid = batch["image"][index], batch["valid"][index]
        panels = [Panel(batch["name"][index], of_image(image, valid))]
        for name, true, said in zip(self.targets, batch["values"][index].cpu(), self.activate(raw), strict=True):
            known = valid.cpu() & true.isfinite()
            values = true[known[0]]
            low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
            for title, shown, where in (("true", true.nan_to_num(low).numpy(), known), ("predicted", said, valid)):
                title = f"{name}, {title}, {low:.3g} to {high:.3g}"
                panels.append(Panel(title, of_values(np.clip(shown, low, high) - low, where, max(high - low, 1e-12))))
        return panels

    @property
    def product(self) -> Product:
        """A band of float32 for each target; NaN is no data."""
        return Product(self.targets, "float32", float("nan"))

    def activate(self, raw: Mapping[str, Tensor]) -> Values:
        """Numbers in the unit of the targets."""
        values: Values = self._published(raw["value"][None])[0].cpu().numpy()
        return values

    def paint(self, values: Values, valid: Valid) -> npt.NDArray[Any]:
        """The numbers."""
        return painted(values, valid, self.product)

    def published(self, raw: Mapping[str, Tensor], valid: Tensor) -> dict[str, Tensor]:
        """``values (B, targets, H, W)``, the pixels of the raster."""
        return {"values": self._published(raw["value"]).masked_fill(~valid[:, None], torch.nan)}

    def _published(self, raw: Tensor) -> Tensor:
        raw = raw.float()
        values = raw * self._column(self.std, raw) + self._column(self.mean, raw)
        return values if self.limits == (None, None) else values.clamp(*self.limits)

    def _scaled(self, values: Tensor) -> Tensor:
        return (values - self._column(self.mean, values)) / self._column(self.std, values)

    def _column(self, numbers: Sequence[float], like: Tensor) -> Tensor:
        return like.new_tensor(numbers).view(-1, 1, 1)
