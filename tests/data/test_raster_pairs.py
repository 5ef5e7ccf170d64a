from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xt.data.raster_pairs import RasterPairsData
from xt.errors import ConfigError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A bright object of 6 × 4 px in 90 × 120, and an image without one."""
    for name, size in (("a", 1), ("b", 0), ("v", 1)):
        mask = np.zeros((90, 120), np.uint8)
        mask[80 : 80 + 6 * size, 10 : 10 + 4 * size] = 1
        for kind, values in (("images", 50 + 150 * mask), ("masks", mask)):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(values).save(tmp_path / kind / f"{name}.png")
    return tmp_path


def samples(root: Path, epochs: int = 1, **options: Any) -> list[dict[str, Any]]:
    defaults: dict[str, Any] = {"image_size": 24, "crops_per_image": 20, "mean": [0.0], "std": [1.0]}
    data = RasterPairsData(str(root), ["sea", "ship"], ["amplitude"], "^v", **defaults | options)
    data.setup("fit")
    dataset = data.train_dataloader().dataset
    return [dataset[epoch, index] for epoch in range(epochs) for index in range(len(dataset))]


def test_centred_crops_hold_an_object_anywhere(root: Path):
    found = [each["mask"] for each in samples(root, 2, centred=1.0) if each["name"] == "a.png"]
    assert len(found) == 40
    assert all((mask == 1).any() for mask in found)
    rows, cols = np.array([np.argwhere(mask == 1).mean(0) for mask in found]).T
    assert rows.std() > 4
    assert cols.std() > 4
    without = [each["mask"] for each in samples(root, 2) if each["name"] == "a.png"]
    assert sum((mask == 1).any() for mask in without) < 20


def test_gain_scales_whole_crops_before_normalisation(root: Path):
    empty = [each["image"] for each in samples(root, gain=0.5, mean=[50.0]) if each["name"] == "b.png"]
    assert all(float(image.std()) < 1e-3 for image in empty)
    logs = np.log([float(image.mean()) / 50 + 1 for image in empty])
    assert 0.2 < logs.std() < 1
    assert all((each["image"] == 0).all() for each in samples(root, mean=[50.0]) if each["name"] == "b.png")


def test_crops_repeat(root: Path):
    a, b, other = (samples(root, centred=0.5, gain=0.3, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(x["image"], y["image"]) for x, y in zip(a, b, strict=True))
    assert not all(np.array_equal(x["image"], y["image"]) for x, y in zip(a, other, strict=True))


@pytest.mark.parametrize(("key", "value"), [("centred", 1.5), ("centred", -0.1), ("gain", -1.0)])
def test_wrong_shares_name_their_key(root: Path, key: str, value: float):
    with pytest.raises(ConfigError, match=rf"data\.init_args\.{key} is {value}"):
        samples(root, **{key: value})
