"""Which images of a folder train, validate and test, told by their names."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from xt.data import formats
from xt.errors import ConfigError, InputError

ROOT = "a relative root counts from the working directory; set --data.root (data.init_args.root) to"
"""What to do where data are not found."""
T = TypeVar("T")


def rasters(folder: Path) -> list[Path]:
    """Rasters of a folder of the data, sorted by name, without hidden files (macOS packs ``._NAME.tif`` beside each).

    Mosaics count where there is nothing else: those beside others are most likely made of them.

    Raises:
        InputError: If there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"data: no folder {folder.absolute()}; {ROOT} the folder that holds it")
    found = sorted(path for path in folder.iterdir() if formats.is_raster(path) and path.name[0] != ".")
    return [path for path in found if not formats.is_mosaic(path)] or found


class Splits:
    """Shares images out by regular expressions that are searched in their names.

    Args:
        validation: Images that it matches validate, the others train.
        test: Those that it matches test, even if ``validation`` matches too; None for those of validation.

    Raises:
        ConfigError: If one is no regular expression; names its key.
    """

    def __init__(self, validation: str, test: str | None) -> None:
        self.validation, self.test = validation, test
        self.names: list[str] = []
        for key, pattern in (("validation", validation), ("test", test)):
            try:
                re.compile(pattern or "")
            except re.error as error:
                raise ConfigError(
                    f"data.init_args.{key} {pattern!r} is no regular expression ({error}); put \\ before what is meant "
                    "as such"
                ) from error

    def share(self, images: Sequence[T], name: Callable[[T], str]) -> dict[str, list[T]]:
        """Return ``train``, ``validation`` and ``test`` with their images."""
        found: dict[str, list[T]] = {"train": [], "validation": [], "test": []}
        self.names = [name(image) for image in images]
        for image in images:
            found[self._of(name(image))].append(image)
        if self.test is None:
            found["test"] = found["validation"]
        return found

    def check(self, shares: Mapping[str, Sequence[object]], split: str) -> None:
        """Look whether a split has images, and for training whether the others have, which come later.

        Raises:
            InputError: If one has none.
        """
        for each in shares if split == "train" else [split]:
            if not shares[each]:
                some = f"names are such as {self.names[0]!r}" if self.names else "there is no image at all"
                if each == "validation" and any(re.search(self.validation, name) for name in self.names):
                    some = "those that both match are test images"
                raise InputError(f"data: no {each} image: validation {self.validation!r}, test {self.test!r}; {some}")

    def _of(self, name: str) -> str:
        if self.test is not None and re.search(self.test, name):
            return "test"
        return "validation" if re.search(self.validation, name) else "train"
