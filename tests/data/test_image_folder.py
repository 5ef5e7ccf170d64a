import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xt.data.image_folder import ImageFolderData
from xt.data.photos import open_photo
from xt.errors import ConfigError, InputError


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


def test_sixteen_bits_are_those_of_eight_and_more(tmp_path: Path):
    shades = np.random.default_rng(0).integers(0, 256, (40, 40))
    path = tmp_path / "a.png"
    for dtype, factor in ((np.uint8, 1), (np.uint16, 257)):
        Image.fromarray((shades * factor).astype(dtype)).save(path)
        with open_photo(path) as photo:
            assert photo.mode == "RGB"
            np.testing.assert_array_equal(np.asarray(photo), np.repeat(shades[..., None], 3, 2))
    Image.fromarray(shades.astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif: holds fractions"), open_photo(tmp_path / "a.tif"):
        pass


def test_what_programs_keep_is_no_class_and_folders_below_count(root: Path):
    for name in (".ipynb_checkpoints", "__MACOSX"):
        shutil.copytree(root / "train" / "dark", root / "train" / name)
        shutil.copytree(root / "train" / "dark", root / "train" / "light" / name)
    shutil.copytree(root / "train" / "dark", root / "train" / "light" / "more" / "of it")
    (root / "val" / "nothing").mkdir()
    classes, files = ImageFolderData(str(root)).list_files()
    assert classes == ("dark", "light")
    names = [(str(path.relative_to(root / "train")), label) for path, label in files["train"]]
    below = [(f"light/more/of it/{i}.jpg", 1) for i in range(3)]
    assert names == [*((f"dark/{i}.jpg", 0) for i in range(3)), *((f"light/{i}.jpg", 1) for i in range(3)), *below]
    (root / "val" / "nothing" / "a.jpg").touch()
    with pytest.raises(InputError, match="val/nothing: this class is not in train"):
        ImageFolderData(str(root)).list_files()
    shutil.rmtree(root / "val")
    with pytest.raises(InputError, match=r"no image in .*val/CLASS"):
        ImageFolderData(str(root)).list_files()
    (root / "train" / "empty").mkdir()
    shutil.copytree(root / "train" / "dark", root / "val" / "dark")
    with pytest.raises(InputError, match=r"train/empty: no image of this class .*; remove the folder"):
        ImageFolderData(str(root)).list_files()


def test_the_test_images_are_those_of_val_unless_there_are_others(root: Path):
    def names(split: str) -> list[str]:
        data = ImageFolderData(str(root), image_size=16)
        data.setup("validate" if split == "val" else "test")
        return [
            str(path.relative_to(root)) for path, _ in data.datasets["validation" if split == "val" else "test"].files
        ]

    assert names("test") == names("val") == ["val/dark/0.jpg", "val/light/0.jpg"]
    shutil.copytree(root / "train", root / "test")
    assert names("val") == ["val/dark/0.jpg", "val/light/0.jpg"]
    assert names("test") == [f"test/{name}/{i}.jpg" for name in ("dark", "light") for i in range(3)]


def test_statistics_of_fractions_are_refused(root: Path):
    with pytest.raises(ConfigError, match="mean and std are those of 8-bit values; take 255 times as much"):
        ImageFolderData(str(root), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
