"""What every data module tells the rest: bands, statistics, classes."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningDataModule

from xt.data.shoreline import Contour
from xt.data.source import InputSpec
from xt.errors import at_least


class DataModule(LightningDataModule):
    """A LightningDataModule that knows what its images are.

    A batch is a dict: ``image (B, C, H, W)`` float32, already ``(value − mean) / std`` with invalid pixels 0;
    ``valid (B, 1, H, W)`` bool; ``name``: list of B strings; and the targets of its task.

    Attributes:
        bands: Names of the bands, in the order of the channels.
        mean: Per band, in the raster's unit.
        std: Per band, in the raster's unit.
        nodata: Nodata value of the rasters, or None.
        coarse: Bands that may be coarser or missing (:class:`~xt.data.source.InputSpec`).
        classes: Class names, or empty.
        resolution: Metres per pixel, or None.
        image_size: Side of a training image in pixels.
        shoreline: Scene → contours, if the data have any; for scores close to the shore.
        batch_size: Images of a batch.
        num_workers: Loader processes.
        root: Folder of the data; the current one by default.
        unbound: Constructor arguments that say where the data lie and how they are read; a run may go on with others.
    """

    unbound: ClassVar[tuple[str, ...]] = ("root", "num_workers")

    bands: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    nodata: float | None = None
    coarse: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    resolution: float | None = None
    image_size: int
    shoreline: Mapping[str, Sequence[Contour]] | None = None
    batch_size: int
    num_workers: int
    root: Path = Path()

    @property
    def inputs(self) -> InputSpec:
        """What a model of these data takes, for a :class:`~xt.data.source.Source`."""
        return InputSpec(self.bands, self.mean, self.std, self.nodata, self.coarse)

    def check_sizes(self, **more: int | None) -> None:
        """Check ``image_size``, ``batch_size``, ``num_workers``, and more that must be at least 1.

        Raises:
            ConfigError: If one is too small; names its key.
        """
        at_least(1, "data.init_args", image_size=self.image_size, batch_size=self.batch_size, **more)
        at_least(0, "data.init_args", num_workers=self.num_workers)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move tensors; tables and names stay where they are."""
        tensors = {key: value for key, value in batch.items() if isinstance(value, torch.Tensor | dict)}
        return batch | super().transfer_batch_to_device(tensors, device, dataloader_idx)

    @abstractmethod
    def setup(self, stage: str) -> None:
        """Read what is needed for ``stage`` (``fit``, ``validate``, ``test``); a second call must cost nothing."""
