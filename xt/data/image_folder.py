"""Images in one folder per class (torchvision's ``ImageFolder`` layout)."""

from collections.abc import Sequence
from pathlib import Path

from xt.data.base import DataModule
from xt.data.image_crops import Images
from xt.data.photos import RESIZED
from xt.data.splits import ROOT
from xt.errors import ConfigError, InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
# Of 8-bit values, as ImageNet's.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


class ImageFolderData(DataModule):
    """``ROOT/train/CLASS/*.jpg`` and ``ROOT/val/CLASS/*.jpg``.

    Args:
        root: Folder with ``train`` and ``val``.
        image_size: Side of an image in pixels: a random crop in training, the middle otherwise.
        mean: Of each channel, of 8-bit values.
        std: Likewise.
        batch_size: Images of a batch.
        num_workers: Loader processes.
        seed: Of crops and order.
        scale: Smallest share of an image's area that a training crop covers.
    """

    gives = "label"
    resize_type = RESIZED

    bands = ("red", "green", "blue")

    def __init__(
        self,
        root: str,
        image_size: int = 512,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        scale: float = 0.25,
    ) -> None:
        super().__init__(root, image_size, batch_size, num_workers, seed)
        self.mean, self.std, self.scale = tuple(mean), tuple(std), scale
        if not 0 < scale <= 1:
            raise ConfigError(f"data.init_args.scale is {scale}; it must lie above 0 and not above 1")
        self.files: dict[str, list[tuple[Path, int]]] = {}

    @property
    def eval_batch_size(self) -> int:
        """As in training: all images are of one size."""
        return self.batch_size

    def dataset(self, split: str) -> Images:
        """Random crops, flipped at random, or the middle of each image; the validation images are the test images."""
        if not self.files:
            self.classes, self.files = self.list_files()
        train = split == "train"
        return Images(self, self.files["train" if train else "val"], self.scale if train else None)

    def list_files(self) -> tuple[tuple[str, ...], dict[str, list[tuple[Path, int]]]]:
        """Return the class names, and split → files with their class.

        Raises:
            InputError: If folders are missing or empty.
        """
        if not (self.root / "train").is_dir():
            raise InputError(
                f"data: no folder {(self.root / 'train').absolute()}; {ROOT} a folder with "
                "train/CLASS/*.jpg and val/CLASS/*.jpg"
            )
        classes = tuple(sorted(path.name for path in (self.root / "train").iterdir() if path.is_dir()))
        files: dict[str, list[tuple[Path, int]]] = {}
        for split in ("train", "val"):
            found = []
            for path in sorted((self.root / split).glob("*/*")):
                if path.suffix.lower() in SUFFIXES:
                    if path.parent.name not in classes:
                        raise InputError(f"{path.parent}: this class is not in train")
                    found.append((path, classes.index(path.parent.name)))
            if not found:
                raise InputError(f"data: no image in {self.root / split}/CLASS")
            files[split] = found
        return classes, files
