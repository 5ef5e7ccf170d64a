"""Samples of classification: crops of image files, and their class."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from xt.data.loading import Key, sample_rng
from xt.data.photos import Bytes, middle_square, open_photo
from xt.errors import InputError

if TYPE_CHECKING:
    from xt.data.image_folder import ImageFolderData


class Images(Dataset[dict[str, Any]]):
    """Image files with their classes."""

    def __init__(self, data: "ImageFolderData", files: list[tuple[Path, int]], scale: float | None) -> None:
        self.files, self.size, self.seed, self.scale = files, data.image_size, data.seed, scale
        self.mean = np.asarray(data.mean, np.float32)[:, None, None]
        self.std = np.asarray(data.std, np.float32)[:, None, None]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """Return the sample of ``(epoch, index)``."""
        path, label = self.files[key[1]]
        try:
            with open_photo(path) as photo:
                pixels = self._cut(photo, sample_rng(self.seed, key))
        except InputError as error:
            raise InputError(f"{error}; remove it or fetch it again") from error
        image = (pixels.transpose(2, 0, 1).astype(np.float32) - self.mean) / self.std
        valid = np.ones((1, self.size, self.size), bool)
        return {"image": image, "valid": valid, "label": label, "name": path.name}

    def _cut(self, image: Image.Image, rng: np.random.Generator) -> Bytes:
        if self.scale is None:
            return middle_square(image, self.size)
        width, height = image.size
        area = width * height * rng.uniform(self.scale, 1)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = min(np.sqrt(area * ratio), width), min(np.sqrt(area / ratio), height)
        left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
        box = (left, top, left + w, top + h)
        resized = np.asarray(image.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box))
        return np.ascontiguousarray(resized[:, ::-1] if rng.random() < 0.5 else resized)
