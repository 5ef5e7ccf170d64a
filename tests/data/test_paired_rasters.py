"""Images and rasters of their pixels: what is measured of them, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rasters import write

from xt.data.raster_pairs import RasterPairsData
from xt.errors import ConfigError, InputError


def pairs(root: Path, **levels: float) -> Path:
    """Images of one value each, by name, and empty masks."""
    for name, level in levels.items():
        write(root / f"images/{name}.tif", np.full((1, 8, 9), level, np.float32))
        write(root / f"masks/{name}.tif", np.zeros((8, 9), np.uint8))
    return root


def data(root: Path, **options: Any) -> RasterPairsData:
    return RasterPairsData(str(root), ["sea", "ship"], ["amplitude"], "^v", image_size=8, **options)


def test_training_images_alone_are_measured_whatever_is_asked_for(tmp_path: Path):
    found = data(pairs(tmp_path, a=1.0, b=3.0, v=50.0))
    found.dataset("test")
    assert (found.mean, found.std) == ((2.0,), (1.0,))


def test_what_cannot_be_measured_is_said(tmp_path: Path):
    pairs(tmp_path, v=50.0)
    assert len(data(tmp_path, mean=[0.0], std=[1.0]).dataset("test")) == 1
    with pytest.raises(InputError, match="no train image"):
        data(tmp_path).dataset("test")
    for given in ({"mean": [0.0]}, {"std": [1.0]}):
        with pytest.raises(ConfigError, match="give both mean and std, or neither"):
            data(tmp_path, **given)


def test_a_split_without_images_is_said_before_training(tmp_path: Path):
    pairs(tmp_path, a=1.0)
    for given in ({}, {"mean": [0.0], "std": [1.0]}):
        with pytest.raises(InputError, match=r"no validation image: validation '\^v'.*; names are such as 'a'"):
            data(tmp_path, **given).dataset("train")


def test_transparency_is_no_band_of_a_mask(tmp_path: Path):
    pairs(tmp_path, a=1.0, v=2.0)
    for name in ("a", "v"):
        (tmp_path / f"masks/{name}.tif").unlink()
        mask = np.stack([np.ones((8, 9), np.uint8), np.full((8, 9), 255, np.uint8)], -1)
        Image.fromarray(mask, "LA").save(tmp_path / f"masks/{name}.png")
    assert (data(tmp_path).dataset("test")[0, 0]["mask"] == 1).all()
