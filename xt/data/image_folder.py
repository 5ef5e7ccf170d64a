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
    """``ROOT/train/CLASS/*.jpg`` and ``ROOT/val/CLASS/*.jpg``, or in folders below ``CLASS``.

    Without ``ROOT/test/CLASS`` those of ``val`` are the test images too. How a camera was held (EXIF) does not count.

    Args:
        root: Folder with ``train`` and ``val``, and ``test`` if there is one.
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
        if max(std) < 2:
            raise ConfigError(
                f"data.init_args.std is {list(std)}: mean and std are those of 8-bit values; take 255 times as much"
            )
        if not 0 < scale <= 1:
            raise ConfigError(f"data.init_args.scale is {scale}; it must lie above 0 and not above 1")
        self.files: dict[str, list[tuple[Path, int]]] = {}

    @property
    def eval_batch_size(self) -> int:
        """As in training: all images are of one size."""
        return self.batch_size

    def dataset(self, split: str) -> Images:
        """Random crops, flipped at random, or the middle of each image."""
        if not self.files:
            self.classes, self.files = self.list_files()
        files = {"train": self.files["train"], "validation": self.files["val"]}
        files["test"] = self.files.get("test", files["validation"])
        return Images(self, files[split], self.scale if split == "train" else None)

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
        splits = ("train", "val", "test") if (self.root / "test").is_dir() else ("train", "val")
        listed = {split: _listed(self.root / split) for split in splits}
        for split, found in listed.items():
            if not any(found.values()):
                raise InputError(f"data: no image in {self.root / split}/CLASS")
        classes = tuple(sorted(listed["train"]))
        files: dict[str, list[tuple[Path, int]]] = {}
        for split, found in listed.items():
            for name, paths in found.items():
                folder = self.root / split / name
                if not paths and split == "train":
                    raise InputError(f"{folder}: no image of this class ({', '.join(SUFFIXES)}); remove the folder")
                if paths and name not in classes:
                    raise InputError(f"{folder}: this class is not in train")
            files[split] = [(path, classes.index(name)) for name, paths in sorted(found.items()) for path in paths]
        return classes, files


def _listed(folder: Path) -> dict[str, list[Path]]:
    """Class → its images, in folders below too; what programs keep for themselves is left out."""

    def is_own(path: Path) -> bool:
        return any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(folder).parts)

    classes = [path for path in folder.glob("*") if path.is_dir() and not is_own(path)]
    return {
        each.name: [path for path in sorted(each.rglob("*")) if path.suffix.lower() in SUFFIXES and not is_own(path)]
        for each in classes
    }
