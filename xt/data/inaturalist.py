"""iNaturalist-2018: images listed in the JSON files of the challenge."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from xt.data.image_folder import MEAN, STD, ImageFolderData
from xt.data.splits import ROOT
from xt.errors import ConfigError, InputError, nearest

FIELDS: dict[str, dict[str, type]] = {
    "images": {"id": int, "file_name": str},
    "annotations": {"image_id": int, "category_id": int},
    "categories": {"id": int, "name": str, "supercategory": str},
}
"""What is read of the lists in a JSON file."""


class INaturalistData(ImageFolderData):
    """Images of one supercategory, such as the 284 classes of Reptilia, or of all.

    Crops are those of :class:`~xt.data.image_folder.ImageFolderData`; classes are the categories of the
    supercategory in the order of their numbers.

    Args:
        root: Folder with the JSON files; their ``file_name`` starts here.
        supercategory: Of the categories that are read; all by default.
        train: JSON file of the training images, under ``root``.
        val: JSON file of the validation images, under ``root``; they are the test images too.
        image_size: Side of an image in pixels: a random crop in training, the middle otherwise.
        mean: Of each channel, of 8-bit values.
        std: Likewise.
        batch_size: Images of a batch.
        num_workers: Loader processes.
        seed: Of crops and order.
        scale: Smallest share of an image's area that a training crop covers.
    """

    def __init__(
        self,
        root: str,
        supercategory: str | None = None,
        train: str = "train2018.json",
        val: str = "val2018.json",
        image_size: int = 512,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        scale: float = 0.25,
    ) -> None:
        super().__init__(root, image_size, mean, std, batch_size, num_workers, seed, scale)
        self.supercategory = supercategory
        self.annotations = {"train": self.root / train, "val": self.root / val}

    def list_files(self) -> tuple[tuple[str, ...], dict[str, list[tuple[Path, int]]]]:
        """Return the class names, and split → files with their class.

        Raises:
            InputError: If a JSON file or the first image of a split is missing, or entries do not fit together.
            ConfigError: If no category is of the supercategory.
        """
        classes: dict[int, str] = {}
        files = {}
        for split, path in self.annotations.items():
            content = _read(path)
            found = self._classes(path, content["categories"])
            if classes and found != classes:
                raise InputError(f"{path}: its categories are not those of {self.annotations['train'].name}")
            classes = found
            files[split] = self._files(path, content, {number: index for index, number in enumerate(classes)})
        return tuple(classes.values()), files

    def _classes(self, path: Path, categories: list[dict[str, Any]]) -> dict[int, str]:
        """Names of the wanted categories by number, which stands behind a name that several have."""
        found = {
            each["id"]: each["name"]
            for each in categories
            if self.supercategory is None or each["supercategory"] == self.supercategory
        }
        if not found:
            known = {each["supercategory"] for each in categories}
            raise ConfigError(
                f"data.init_args.supercategory: {path} has no {self.supercategory!r}"
                f"{nearest(str(self.supercategory), known)}"
            )
        often = Counter(found.values())
        return {number: name if often[name] == 1 else f"{name} ({number})" for number, name in sorted(found.items())}

    def _files(self, path: Path, content: dict[str, Any], labels: dict[int, int]) -> list[tuple[Path, int]]:
        names = {each["id"]: each["file_name"] for each in content["images"]}
        known = {each["id"] for each in content["categories"]}
        found: dict[str, int] = {}
        for entry in content["annotations"]:
            image, category = entry["image_id"], entry["category_id"]
            if image not in names or category not in known:
                what = f"image_id {image}" if image not in names else f"category_id {category}"
                raise InputError(f"{path}: an annotation has {what}, which is not listed; fetch the file again")
            if category in labels and found.setdefault(names[image], labels[category]) != labels[category]:
                raise InputError(f"{path}: {names[image]} has two categories; remove one of its annotations")
        if not found:
            raise InputError(f"{path}: no image of {self.supercategory or 'any category'}; check train and val")
        files = [(self.root / name, label) for name, label in sorted(found.items())]
        if not files[0][0].is_file():
            raise InputError(
                f"{files[0][0]}: no such file, but {path.name} names it; unpack the images under {self.root}"
            )
        return files


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"data: {path.absolute()} cannot be read ({error.strerror}); {ROOT} the folder of the JSON files"
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}); fetch it again") from error
    for name, fields in FIELDS.items():
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not entries:
            raise InputError(
                f"{path} has no list {name!r}; take the train2018.json and val2018.json of iNaturalist 2018"
            )
        for index, entry in enumerate(entries):
            for field, kind in fields.items():
                if not isinstance(entry, dict) or type(entry.get(field)) is not kind:
                    raise InputError(f"{path}: {name}[{index}] has no {field} ({kind.__name__}); fetch the file again")
    for entry in content["images"]:
        image = PurePosixPath(entry["file_name"])
        if image.is_absolute() or ".." in image.parts:
            raise InputError(f"{path}: file_name {entry['file_name']!r} leads out of the data's folder")
    return dict(content)
