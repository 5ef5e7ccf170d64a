"""What every data module tells the rest: bands, statistics, classes."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from xt.data.shoreline import Contour


class DataModule(LightningDataModule):
    """A LightningDataModule that knows what its images are.

    A batch is a dict: ``image (B, C, H, W)`` float32, already ``(value − mean) / std`` with invalid pixels 0;
    ``valid (B, 1, H, W)`` bool; ``name``: list of B strings; and the targets of its task.

    Attributes:
        bands: Names of the bands, in the order of the channels.
        mean: Per band, in the raster's unit.
        std: Per band, in the raster's unit.
        nodata: Nodata value of the rasters, or None.
        classes: Class names, or empty.
        resolution: Metres per pixel, or None.
        image_size: Side of a training image in pixels.
        shoreline: Scene → contours, if the data have any; for scores close to the shore.
    """

    bands: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    nodata: float | None = None
    classes: tuple[str, ...] = ()
    resolution: float | None = None
    image_size: int
    shoreline: Mapping[str, Sequence[Contour]] | None = None

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move tensors; tables and names stay where they are."""
        tensors = {key: value for key, value in batch.items() if isinstance(value, torch.Tensor | dict)}
        return batch | super().transfer_batch_to_device(tensors, device, dataloader_idx)

    @abstractmethod
    def setup(self, stage: str) -> None:
        """Read what is needed for ``stage`` (``fit``, ``validate``, ``test``), once, cheaply."""
