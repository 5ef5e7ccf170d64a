"""A model as one graph: values of a raster go in, what its task publishes comes out."""

import copy
import json
from importlib.metadata import version

import torch
from torch import Tensor, nn

from xt.models.metadata import ModelMetadata
from xt.models.mlm import stac_block
from xt.models.xt import XT
from xt.tasks.registry import task_of

INPUT = "image"


class ExportedModel(nn.Module):
    """What is exported of a model.

    Values are normalised inside, and pixels without data found, as :class:`~xt.data.source.Source` does. All regions
    are encoded and all pixels decoded at once, and every region is in the sequence: where :class:`XT` leaves regions
    without a valid pixel out, a graph, which cannot depend on values, has tokens of zeros.

    Args:
        model: In evaluation mode; it stays as it is.
        metadata: Of the model.
        size: Height and width of images.

    Attributes:
        image_shape: Channels, height and width.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: XT, metadata: ModelMetadata, size: tuple[int, int]) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.model.streaming = False
        self.model.decode_size = max(size) + model.region_size
        self.nodata = metadata.nodata
        self.image_shape = (len(metadata.bands), *size)
        coarse = set(metadata.coarse or ()) if set(metadata.coarse or ()) != set(metadata.bands) else set()
        self._deciding = [index for index, band in enumerate(metadata.bands) if band not in coarse]
        self._published = task_of(metadata).eval().published
        for name, values in (("mean", metadata.mean), ("std", metadata.std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None])

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Predict images.

        Args:
            image: ``(B, C, H, W)`` float32, in the unit of the raster. NaN and the model's nodata value are no data.

        Returns:
            Name → what the task publishes (:meth:`~xt.tasks.base.Task.published`).
        """
        known = image.isfinite()
        if self.nodata is not None:
            known = known & (image != self.nodata)
        valid = known[:, self._deciding].all(1, keepdim=True)
        normalised = torch.where(known & valid, (image - self.mean) / self.std, torch.zeros_like(image))
        return self._published(self.model(normalised), valid[:, 0])

    def example(self, batch: int) -> Tensor:
        """Draw images like those of training, always the same, with a corner that has no data."""
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(batch, *self.image_shape, generator=generator) * self.std + self.mean
        image[..., :3, :5] = torch.nan if self.nodata is None else self.nodata
        return image


def facts(model: XT, metadata: ModelMetadata) -> dict[str, str]:
    """What is written into an exported file beside the graph, by name; all but the version is JSON."""
    return {
        "xt_version": version("xt"),
        "bands": json.dumps(metadata.bands),
        "classes": json.dumps(metadata.classes),
        "nodata": json.dumps(metadata.nodata),
        "mean": json.dumps(metadata.mean),
        "std": json.dumps(metadata.std),
        "config": json.dumps(
            {"model": model.spec(), "metadata": metadata.to_dict(), "stac": stac_block(model, metadata)}
        ),
    }
