"""What every data module tells the rest (bands, statistics, classes), and the loaders that all share."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from xt.data.batches import check_batch, check_values
from xt.data.loading import make_loader
from xt.data.shoreline import Contour
from xt.data.source import InputSpec
from xt.errors import ConfigError, InputError, at_least

STAGES = {"fit": ("train", "validation"), "validate": ("validation",), "test": ("test",)}
"""Stage → splits that it needs."""
CONVERTED = ("16-true", "bf16-true", "64-true")
"""Precisions for which Lightning turns batches into another type before they are seen here."""
STATISTICS = ("mean", "std", "target_mean", "target_std")
"""Attributes that may be measured over the training data."""


def check_bands(bands: Sequence[str], indexes: Sequence[int] | None) -> None:
    """Check that there are bands, and as many numbers of bands as names.

    Args:
        bands: Their names.
        indexes: 1-based bands of the files; None for all.

    Raises:
        ConfigError: If not; names the key.
    """
    if not bands:
        raise ConfigError("data.init_args.bands is []; name each band that is read")
    if indexes and len(indexes) != len(bands):
        raise ConfigError(f"data.init_args.band_indexes has {len(indexes)} numbers for {len(bands)} bands")


class DataModule(LightningDataModule):
    """A LightningDataModule that knows what its images are. Subclasses give :meth:`dataset`.

    A batch is a dict: ``image (B, C, H, W)`` float32, already ``(value − mean) / std`` with invalid pixels 0;
    ``valid (B, 1, H, W)`` bool; ``name``: list of B strings; and the targets of its task.

    Args:
        root: Folder of the data.
        image_size: Side of a training image in pixels.
        batch_size: Images of a training batch, in each process.
        num_workers: Loader processes.
        seed: Of order and augmentation.

    Attributes:
        bands: Names of the bands, in the order of the channels.
        mean: Per band, in the raster's unit.
        std: Per band, in the raster's unit.
        nodata: Nodata value of the rasters, or None.
        coarse: Bands that may be coarser or missing (:class:`~xt.data.source.InputSpec`).
        gives: What is known of its images (``points``, ``mask``, ``values``, ``label``), or ``tokens`` instead of them.
        classes: Class names, or empty.
        targets: Names of the values of a pixel, or empty.
        target_mean: Of each of them.
        target_std: Likewise.
        ignore_index: Mask value that is no class and is not scored.
        untold: Maps of :func:`~xt.data.targets.detection_targets` that no training object teaches.
        described: Of tokens, the metadata of the model that made them.
        resolution: Metres per pixel, or None.
        resize_type: :data:`xt.data.photos.RESIZED` if an image is seen whole, brought to ``image_size``, as it then is
            in prediction too; empty where pixels are seen as they are.
        shoreline: Scene → contours, if the data have any; for scores close to the shore.
        datasets: Split (``train``, ``validation``, ``test``) → what its samples are read from, after :meth:`setup`.
        epoch: The next one to train.
        same_batches: Whether every epoch is the first one again, to the augmentation.
        skip_batches: Batches of it that an earlier run has used, in each process; 0 once one more is used.
        unbound: Constructor arguments that say where the data lie and how they are read; a run may go on with others.

    Raises:
        ConfigError: If a size is too small; names its key.
    """

    gives: ClassVar[str]
    unbound: ClassVar[tuple[str, ...]] = ("root", "num_workers")

    bands: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    nodata: float | None = None
    coarse: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    target_mean: tuple[float, ...] = ()
    target_std: tuple[float, ...] = ()
    ignore_index: int = -1
    untold: tuple[str, ...] = ()
    described: dict[str, Any] | None = None
    resolution: float | None = None
    resize_type: str = ""
    shoreline: Mapping[str, Sequence[Contour]] | None = None

    def __init__(
        self, root: str | Path = ".", image_size: int = 1, batch_size: int = 1, num_workers: int = 0, seed: int = 0
    ) -> None:
        super().__init__()
        at_least(1, "data.init_args", image_size=image_size, batch_size=batch_size)
        at_least(0, "data.init_args", num_workers=num_workers)
        self.root, self.image_size = Path(root), image_size
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.epoch = self.skip_batches = 0
        self.same_batches = False
        self.datasets: dict[str, Dataset[Any]] = {}
        self._looked_at: set[str] = set()

    @property
    def inputs(self) -> InputSpec:
        """What a model of these data takes, for a :class:`~xt.data.source.Source`."""
        return InputSpec(self.bands, self.mean, self.std, self.nodata, self.coarse)

    @property
    def eval_batch_size(self) -> int:
        """Images of a validation or test batch; 1 where their sizes differ."""
        return 1

    @abstractmethod
    def dataset(self, split: str) -> Dataset[Any]:
        """Read what is needed of a split; its samples are asked for by :data:`~xt.data.loading.Key`."""

    def setup(self, stage: str) -> None:
        """Read what is needed for ``stage`` (``fit``, ``validate``, ``test``); a second call costs nothing."""
        for split in STAGES.get(stage, ()):
            if split not in self.datasets:
                found = self.dataset(split)
                if split == "train" and not len(found):  # type: ignore[arg-type]
                    raise InputError("data: no training sample; look at where the data lie")
                self.datasets[split] = found

    def state_dict(self) -> dict[str, Any]:
        """Mean and deviation of bands and targets, classes and the number of samples, which a checkpoint keeps."""
        state: dict[str, Any] = {name: list(getattr(self, name, ())) for name in (*STATISTICS, "classes")}
        train = self.datasets.get("train")
        return state | {"samples": None if train is None else len(train)}  # type: ignore[arg-type]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take mean and deviation of a run or model, so that :meth:`setup` need not measure them; the config counts."""
        for name in STATISTICS:
            if not getattr(self, name, ()):
                setattr(self, name, tuple(state_dict.get(name, ())))

    def train_dataloader(self) -> DataLoader[Any]:
        """Training samples in an order that changes from epoch to epoch."""
        how = self.batch_size, self.num_workers, self.seed, True, self.skip_batches, self.epoch, self.same_batches
        return make_loader(self.datasets["train"], *how)

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation samples in their own order."""
        return self._eval_loader("validation")

    def test_dataloader(self) -> DataLoader[Any]:
        """Test samples in their own order."""
        return self._eval_loader("test")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move tensors; tables and names stay where they are.

        Before, each batch is looked at for keys, types and shapes, and the first of a split for values.

        Raises:
            InputError: If something is wrong; names the key.
        """
        if self.gives != "tokens":
            trainer = self.trainer
            converted = trainer is not None and trainer.precision in CONVERTED
            check_batch(batch, self.gives, len(self.bands), len(self.targets), converted)
            split = "train" if trainer is not None and trainer.training else "other"
            if split not in self._looked_at:
                self._looked_at.add(split)
                check_values(batch, self.gives, len(self.classes), self.ignore_index)
        tensors = {key: value for key, value in batch.items() if isinstance(value, torch.Tensor | dict)}
        return batch | super().transfer_batch_to_device(tensors, device, dataloader_idx)

    def _eval_loader(self, split: str) -> DataLoader[Any]:
        return make_loader(self.datasets[split], self.eval_batch_size, self.num_workers, self.seed, False)
