"""The contract of a task: everything that differs between finding points, classes of pixels and classes of images.

Training, prediction, evaluation and reports ask the task; none of them knows which heads a model has, what their
values mean, or which scores count.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from xt.data.labels import LabelTable
from xt.errors import ConfigError, ModelError
from xt.geometry.grid import Window
from xt.models.checkpoint import PARTS
from xt.models.metadata import ModelMetadata
from xt.models.xt import XT
from xt.plugins import Configurable
from xt.tasks import preview
from xt.tasks.preview import Panel

if TYPE_CHECKING:
    from xt.data.base import DataModule

Batch = dict[str, Any]
Losses = dict[str, Tensor]
Values = npt.NDArray[np.float32]
Valid = npt.NDArray[np.bool_]
Colour = tuple[int, int, int]
Resampling = Literal["average", "mode"]


@dataclass(frozen=True)
class Product:
    """The raster that a task publishes.

    Attributes:
        names: Of the bands.
        dtype: Sample type.
        nodata: Value of pixels without data; no value of the task's own.
        resampling: How pixels are put together where the raster is shown smaller: the mean, or, for numbers of classes,
            the most frequent.
        classes: Names of the values 0, 1, …; empty if they are no classes.
        colours: Red, green, blue in 0..255 of the values 0, 1, … of ``uint8``; None for shades of grey.

    Raises:
        ModelError: If ``resampling`` is neither, or ``colours`` are not one for each class.
    """

    names: tuple[str, ...]
    dtype: str
    nodata: float
    resampling: Resampling = "average"
    classes: tuple[str, ...] = ()
    colours: tuple[Colour, ...] | None = None

    @property
    def pixel_bytes(self) -> int:
        """Bytes of a pixel in all bands."""
        return len(self.names) * np.dtype(self.dtype).itemsize

    def __post_init__(self) -> None:
        """Check what a task of one's own may get wrong, before hours of work."""
        if self.resampling not in get_args(Resampling):
            raise ModelError(
                f"product: resampling {self.resampling!r} must be one of {', '.join(get_args(Resampling))}"
            )
        if self.colours and self.classes and len(self.colours) != len(self.classes):
            raise ModelError(f"product: {len(self.colours)} colours for {len(self.classes)} classes")


class Task(nn.Module, Configurable, ABC):
    """What a model is trained for, and what becomes of its answers.

    A task is built by a config, or with its defaults for a saved model, and then told by :meth:`prepare` what it works
    on. It holds no model; whoever uses it passes one.

    Attributes:
        kind: Name of the task in a model's metadata.
        takes: What its data must give (:attr:`~xt.data.base.DataModule.gives`).
        monitor: Score by which the best model is chosen; higher is better.
        shown: Scores that a progress bar shows.
        class_heads: Heads that have a channel for each of :attr:`channel_names`.
        files: Suffixes of what a prediction writes beside the raster.
        learns: Parts of the model that its losses reach.
        classes: Names, in the order of the channels; empty if the task has none.
    """

    kind: ClassVar[str]
    takes: ClassVar[str]
    monitor: ClassVar[str]
    shown: ClassVar[tuple[str, ...]] = ()
    class_heads: ClassVar[tuple[str, ...]] = ()
    files: ClassVar[tuple[str, ...]] = ()
    learns: ClassVar[tuple[str, ...]] = PARTS
    classes: tuple[str, ...] = ()

    @property
    @abstractmethod
    def heads(self) -> dict[str, int]:
        """Name → channels, once the task is prepared."""

    @property
    def channels(self) -> int:
        """Channels of :meth:`activate`; one for each of the heads' by default."""
        return sum(self.heads.values())

    @property
    def channel_names(self) -> tuple[str, ...]:
        """What the channels of ``class_heads`` are of; the classes by default."""
        return self.classes

    def biases(self) -> dict[str, float]:
        """Head → the bias that its last layer starts with."""
        return {}

    def prepare(self, metadata: ModelMetadata) -> None:
        """Take over what a model is, or is to be, trained on: classes, thresholds, settings."""
        self.classes = metadata.classes

    def adopt(self, data: "DataModule") -> None:
        """Take over what training data say beside the metadata.

        Raises:
            ConfigError: If they do not give what the task learns from.
        """
        if data.gives != self.takes:
            raise ConfigError(
                f"data: {type(data).__name__} gives {data.gives}, {type(self).__name__} learns from {self.takes}; "
                "choose others in data or model.task"
            )

    def attach(self, model: XT) -> None:
        """Make what is trained beside a model."""

    def check(self, model: XT, metadata: ModelMetadata, data: "DataModule") -> None:
        """Compare the data with the model before they are used together.

        Raises:
            ModelError: If they do not fit.
        """

    @abstractmethod
    def losses(self, model: XT, batch: Batch) -> Losses:
        """Losses of a batch; ``loss`` is minimised."""

    @abstractmethod
    def measure(self, model: XT, batch: Batch) -> Mapping[str, Tensor] | None:
        """Keep what the scores need of a batch.

        Returns:
            The raw answers, head → ``(B, n, H, W)``, or ``(B, n)`` of a pooled model, for :meth:`preview`; or None.
        """

    @abstractmethod
    def scores(self, data: "DataModule", tune: bool) -> dict[str, float]:
        """Scores of all batches measured since the last call, over all processes.

        Args:
            data: Of the batches.
            tune: Choose decision thresholds by these data first.
        """

    def preview(self, batch: Batch, index: int, raw: Mapping[str, Tensor]) -> list[Panel]:
        """Show what is said of an image beside what is true: here the image and the bands of the product.

        Args:
            batch: Of validation.
            index: Of the image in it.
            raw: What :meth:`measure` returned of this image: head → ``(n, H, W)`` or ``(n,)``.
        """
        image, valid = batch["image"][index], batch["valid"][index]
        panels = [Panel(batch["name"][index], preview.of_image(image, valid))]
        values = self.activate(raw)
        if values.ndim == 3:
            known = valid[0].cpu().numpy()
            bands = np.where(known, self.paint(values, known), 0).astype(np.float32)
            for name, band in zip(self.product.names, bands, strict=True):
                low, high = float(band.min()), float(band.max())
                panels.append(
                    Panel(f"{name}, {low:.3g} to {high:.3g}", preview.of_values(band - low, valid, high - low))
                )
        return panels

    def thresholds(self) -> dict[str, float]:
        """Decision thresholds, if the task has any."""
        return {}

    def settings(self) -> dict[str, Any]:
        """What a saved model must tell of the task beside classes and thresholds; names and numbers."""
        return {}

    def published(self, raw: Mapping[str, Tensor], valid: Tensor) -> dict[str, Tensor]:
        """What an exported model gives: :meth:`activate` and :meth:`paint` of a batch, in operations of torch alone.

        Here the raw answers, of a task that says no more.

        Args:
            raw: Head → ``(B, n, H, W)``, or ``(B, n)`` of a pooled model.
            valid: ``(B, H, W)`` bool.
        """
        return dict(raw)

    @property
    @abstractmethod
    def product(self) -> Product:
        """The raster that is published."""

    @abstractmethod
    def activate(self, raw: Mapping[str, Tensor]) -> Values:
        """Bring the raw answer for one image to values that may be averaged where tiles overlap.

        Args:
            raw: Head → ``(n, h, w)``, or ``(n,)`` of a pooled model.

        Returns:
            ``(channels, h, w)`` or ``(channels,)``.
        """

    @abstractmethod
    def paint(self, values: Values, valid: Valid) -> npt.NDArray[Any]:
        """Turn averaged values into the pixels of the product.

        Args:
            values: ``(channels, h, w)``.
            valid: ``(h, w)``.

        Returns:
            ``(bands, h, w)`` of the product's type, nodata where nothing is valid.
        """


class ObjectTask(Task):
    """A task that finds objects in the raster that it publishes."""

    @abstractmethod
    def find(self, read: Callable[[Window], npt.NDArray[Any]], height: int, width: int, name: str) -> LabelTable:
        """Find the objects of an image.

        Args:
            read: Window inside the image → pixels of the product, ``(bands, h, w)``, which the task may change.
            height: Rows in all.
            width: Columns in all.
            name: Of the image.
        """


class ImageTask(Task):
    """A task that has one answer for an image; that of a large one is the mean over its tiles."""

    @abstractmethod
    def describe(self, values: npt.NDArray[np.float64] | None) -> dict[str, Any]:
        """What is written as JSON.

        Args:
            values: Mean over tiles of what :meth:`activate` gave; None if no tile has data.
        """


def painted(values: npt.NDArray[Any], valid: Valid, product: Product) -> npt.NDArray[Any]:
    """Values in the type of a product, with its nodata where nothing is valid."""
    result: npt.NDArray[Any] = np.where(valid, values, np.asarray(product.nodata).astype(product.dtype))
    return result.astype(product.dtype, copy=False)
