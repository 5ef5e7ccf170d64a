from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xt.data.image_folder import ImageFolderData
from xt.errors import InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, num in (("train", 3), ("val", 1)):
        for label, level in (("dark", 20), ("light", 220)):
            folder = tmp_path / split / label
            folder.mkdir(parents=True)
            for i in range(num):
                noise = rng.integers(-15, 15, (50 + 7 * i, 80, 3)) + level
                Image.fromarray(noise.astype(np.uint8)).save(folder / f"{i}.jpg")
    return tmp_path


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_batches_are_normalised_and_repeatable(root: Path, workers: int):
    data = ImageFolderData(str(root), image_size=32, batch_size=2, num_workers=workers, seed=4)
    data.setup("fit")
    assert data.classes == ("dark", "light")
    plain = ImageFolderData(str(root), image_size=32, batch_size=2, seed=4)
    plain.setup("fit")
    for a, b, c in zip(*(each.train_dataloader() for each in (data, plain, plain)), strict=True):
        assert a["image"].shape == (2, 3, 32, 32)
        assert a["image"].equal(b["image"])
        assert a["image"].equal(c["image"])
        assert ((a["image"].mean((1, 2, 3)) > 0).long() == a["label"]).all()
    (batch,) = plain.val_dataloader()
    assert batch["label"].tolist() == [0, 1]


@pytest.mark.parametrize(("height", "width"), [(40, 64), (64, 40)])
def test_the_middle_of_an_image_is_validated_upright(root: Path, height: int, width: int):
    rows, cols = np.indices((height, width), np.uint8)
    for path in (root / "val").glob("*/*.jpg"):
        path.unlink()
    Image.fromarray(np.stack([rows, cols, 0 * rows], axis=2)).save(root / "val" / "dark" / "a.png")
    data = ImageFolderData(str(root), image_size=40, mean=(1, 2, 3), std=(2, 4, 8))
    data.setup("fit")
    (batch,) = data.val_dataloader()
    top, left = (height - 40) // 2, (width - 40) // 2
    want = np.stack([rows, cols, 0 * rows])[:, top : top + 40, left : left + 40].astype(np.float32)
    want = (want - np.float32([[[1]], [[2]], [[3]]])) / np.float32([[[2]], [[4]], [[8]]])
    np.testing.assert_array_equal(batch["image"][0].numpy(), want)


def test_epochs_differ(root: Path):
    data = ImageFolderData(str(root), image_size=16, batch_size=1)
    data.setup("fit")
    loader = data.train_dataloader()
    sums = []
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)
        sums.append([float(b["image"].sum()) for b in loader])
    assert sums[0] != sums[1]


def test_bad_image_is_named_and_missing_folders_say_what_to_do(root: Path, tmp_path: Path):
    bad = root / "train" / "dark" / "0.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    data = ImageFolderData(str(root), image_size=16, batch_size=1)
    data.setup("fit")
    with pytest.raises(InputError, match=r"dark/0\.jpg: cannot be read as an image"):
        list(data.train_dataloader())
    with pytest.raises(InputError, match=r"train/CLASS/\*\.jpg"):
        ImageFolderData(str(tmp_path / "none")).setup("fit")
