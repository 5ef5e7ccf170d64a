from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rasters import noise, write

from xt.data.loading import sample_rng
from xt.data.masks import WINDOW, Foreground, ForegroundIndex, MaskReader, windows
from xt.data.raster_pairs import RasterPairsData
from xt.data.source import Source
from xt.errors import ConfigError, InputError
from xt.geometry.grid import Window


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


def pairs(root: Path, **images: tuple[np.ndarray, np.ndarray]) -> Path:
    for name, (image, mask) in images.items():
        write(root / f"images/{name}.tif", image)
        write(root / f"masks/{name}.tif", mask)
    return root


def painted(height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose first band is the class and whose second one differs everywhere; some of it is missing."""
    rng = np.random.default_rng(seed)
    mask = (rng.random((height, width)) > 0.995).astype(np.uint8)
    mask[height // 2 : height // 2 + 5, width // 3 : width // 3 + 17] = 2
    image = np.stack([mask.astype(np.float32), np.arange(height * width, dtype=np.float32).reshape(height, width)])
    image[1, :7, 11:40] = np.nan
    mask[-3:, :] = 255
    return image, mask


BUILD: dict[str, Any] = {
    "classes": ["x", "y", "z"],
    "bands": ["class", "place"],
    "validation": "^v",
    "mean": [0.0, 0.0],
    "std": [1.0, 1.0],
}


def naive(
    data: RasterPairsData, image: np.ndarray, mask: np.ndarray, seed: int, key: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Read all, choose the corner, cut, pad, turn, normalise: what a crop is."""
    rng, size = sample_rng(seed, key), data.image_size
    valid = np.isfinite(image).all(0)
    mask = np.where(valid, mask, 255)
    last = [max(length - size, 0) for length in mask.shape]
    wanted = np.argwhere((mask != 0) & (mask != 255))
    if data.centred and rng.random() < data.centred and len(wanted):
        pixel = wanted[rng.integers(len(wanted))] - rng.integers(size, size=2)
        row, col = np.clip(pixel, 0, last)
    else:
        row, col = (int(rng.integers(length + 1)) for length in last)
    parts = []
    for array, fill in ((np.where(valid, image, 0), 0), (valid, False), (mask, 255)):
        cut = array[..., row : row + size, col : col + size]
        pad = [(0, 0)] * (cut.ndim - 2) + [(0, size - cut.shape[-2]), (0, size - cut.shape[-1])]
        parts.append(np.pad(cut, pad, constant_values=fill))
    turns, flip = int(rng.integers(4)), rng.random() < 0.5
    gain = np.exp(rng.normal(0, data.gain)) if data.gain else 1
    parts = [np.rot90(each, turns, (-2, -1)) for each in parts]
    pixels, known, classes = [each[..., ::-1] if flip else each for each in parts]
    pixels = (pixels * np.float32(gain) - np.reshape(data.mean, (-1, 1, 1))) / np.reshape(data.std, (-1, 1, 1))
    return {"image": np.where(known, pixels, 0), "valid": known[None], "mask": classes}


@pytest.mark.parametrize(("centred", "gain"), [(0.0, 0.0), (1.0, 0.0), (0.5, 0.3)])
def test_crops_are_those_of_whole_images_in_memory(tmp_path: Path, centred: float, gain: float):
    content = {"a": painted(300, 600, 1), "b": painted(20, 70, 2), "v": painted(30, 30, 3)}
    pairs(tmp_path, **content)
    data = RasterPairsData(
        str(tmp_path),
        **BUILD | {"mean": [0.5, 9.0], "std": [2.0, 3.0]},
        image_size=48,
        seed=6,
        crops_per_image=12,
        centred=centred,
        gain=gain,
    )
    data.setup("fit")
    dataset = data.datasets["train"]
    for key in [(epoch, index) for epoch in range(2) for index in range(len(dataset))]:
        sample = dataset[key]
        want = naive(data, *content[Path(sample["name"]).stem], 6, key)
        assert np.array_equal(sample["mask"], want["mask"])
        assert np.array_equal(sample["valid"], want["valid"])
        np.testing.assert_allclose(sample["image"], want["image"], rtol=1e-5, atol=1e-5)


def test_image_mask_and_validity_turn_together(tmp_path: Path):
    pairs(tmp_path, a=painted(90, 110, 1), v=painted(30, 30, 3))
    data = RasterPairsData(str(tmp_path), **BUILD, image_size=48, crops_per_image=80)
    data.setup("fit")
    ways = set()
    for sample in (data.datasets["train"][0, index] for index in range(80)):
        valid, mask, (shown, place) = sample["valid"][0], sample["mask"], sample["image"]
        scored = mask != 255
        assert np.array_equal(mask[scored], shown[scored])
        assert not scored[~valid].any()
        across, down = (
            np.diff(place, axis=1)[valid[:, 1:] & valid[:, :-1]],
            np.diff(place, axis=0)[valid[1:] & valid[:-1]],
        )
        ways.add((float(across[0]), float(down[0])))
        assert len(set(across)) == len(set(down)) == 1
    assert ways == {(a, b) for x, y in ((1, 110), (110, 1)) for a in (x, -x) for b in (y, -y)}


def test_only_the_crop_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pairs(tmp_path, a=painted(900, 700, 1), v=painted(30, 30, 3))
    data = RasterPairsData(str(tmp_path), **BUILD, image_size=48, crops_per_image=9, centred=1.0, validation_tile=64)
    data.setup("fit")
    asked: list[Window] = []
    plain = Source.read
    monkeypatch.setattr(
        Source, "read", lambda self, window, gain=1.0: (asked.append(window), plain(self, window, gain))[1]
    )
    dataset = data.datasets["train"]
    dataset[0, 0]
    index = [each for each in asked if each.height > 48]
    assert sum(each.height * each.width for each in index) == 900 * 700
    assert len(dataset) == 9  # however many tiles it would be cut into
    del asked[:]
    for crop in range(1, 9):
        dataset[0, crop]
    assert len(asked) == 16
    assert sorted({each.height for each in asked}) == [1, 48]
    assert max(each.height * each.width for each in asked) == 48 * 48


@pytest.mark.parametrize(("height", "width", "tile"), [(30, 40, 64), (64, 64, 64), (65, 64, 64), (150, 90, 64)])
def test_large_images_are_validated_in_tiles_that_cover_them_once(tmp_path: Path, height: int, width: int, tile: int):
    image, mask = painted(height, width, 3)
    pairs(tmp_path, a=painted(50, 50, 1), v=(image, mask))
    data = RasterPairsData(str(tmp_path), **BUILD, image_size=16, validation_tile=tile)
    data.setup("fit")
    found = [batch for batch in data.val_dataloader()]
    assert len(found) == -(-height // tile) * -(-width // tile)
    assert len({batch["name"][0] for batch in found}) == len(found)
    if len(found) == 1:
        assert found[0]["name"] == ["v.tif"]
        assert found[0]["image"].shape == (1, 2, height, width)
    assert max(max(batch["mask"].shape) for batch in found) <= tile
    valid = np.isfinite(image).all(0)
    assert sum(int(batch["valid"].sum()) for batch in found) == valid.sum()
    places = np.sort(np.concatenate([batch["image"][0, 1][batch["valid"][0, 0]].numpy() for batch in found]))
    assert np.array_equal(places, np.sort(image[1][valid]))
    counts = sum(np.bincount(batch["mask"].numpy().ravel(), minlength=256) for batch in found)
    assert np.array_equal(counts, np.bincount(np.where(valid, mask, 255).ravel(), minlength=256))


def test_statistics_are_measured_over_valid_training_pixels(tmp_path: Path):
    images = {
        name: noise(2, h, w, seed=h) * [[[1.0]], [[1e-2]]] + [[[0.0]], [[1e5]]]
        for name, h, w in (("a", 40, WINDOW + 60), ("b", 9, 7), ("v", 20, 20))
    }
    for image in images.values():
        image[0, :3, :5] = np.nan
    images["v"] += 1000
    content = {
        name: (image.astype(np.float64), np.eye(*image.shape[1:], dtype=np.uint8)) for name, image in images.items()
    }
    pairs(tmp_path, **content)
    data = RasterPairsData(
        str(tmp_path), **{key: value for key, value in BUILD.items() if key not in ("mean", "std")}, image_size=16
    )
    data.setup("fit")
    pixels = [content[name][0][:, np.isfinite(content[name][0]).all(0)].astype(np.float32) for name in "ab"]
    want = np.concatenate(pixels, axis=1).astype(np.float64)
    np.testing.assert_allclose(data.mean, want.mean(1), rtol=1e-9)
    np.testing.assert_allclose(data.std, want.std(1), rtol=1e-7)


def test_no_valid_pixel_is_said(tmp_path: Path):
    empty = np.full((2, 9, 9), np.nan, np.float32), np.zeros((9, 9), np.uint8)
    pairs(tmp_path, a=empty, v=painted(9, 9, 1))
    with pytest.raises(InputError, match="holds no valid pixel"):
        RasterPairsData(
            str(tmp_path), **{key: value for key, value in BUILD.items() if key not in ("mean", "std")}
        ).setup("fit")


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 256), (5, 257), (40, 1030), (1100, 300)])
@pytest.mark.parametrize("share", [0.0, 0.01, 1.0])
def test_foreground_is_found_in_raster_order(height: int, width: int, share: float):
    mask = np.random.default_rng(0).random((height, width)) < share
    read = lambda window: mask[window.slices]  # noqa: E731
    index, want = Foreground(height, width, read), np.argwhere(mask)
    assert len(index) == len(want)
    assert index.counts.nbytes <= max(mask.size / 128 + 2 * height, 2)
    for number in {0, len(want) // 3, len(want) - 1} if len(want) else ():
        assert index.find(number, read) == tuple(want[number])


def test_the_index_keeps_only_so_much(monkeypatch: pytest.MonkeyPatch):
    made: list[int] = []
    monkeypatch.setattr("xt.data.masks.INDEX_BYTES", 3 * 100 * 2)
    index = ForegroundIndex()

    def get(key: int) -> None:
        def read(window: Window) -> np.ndarray:
            made.append(key)
            return np.ones((window.height, window.width), bool)

        assert len(index.get(key, 100, 10, read)) == 1000

    for key in (0, 1, 2, 0, 3, 0, 1):
        get(key)
    assert made == [0, 1, 2, 3, 1]
    assert len(index.kept) == 3


def test_windows_cover_a_raster_once():
    seen = np.zeros((2500, 1030), int)
    for window in windows(2500, 1030):
        seen[window.slices] += 1
    assert (seen == 1).all()


def test_masks_are_read_by_windows_with_nodata_colours_and_borders(tmp_path: Path):
    values = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    path = write(tmp_path / "a.tif", values, nodata=2)
    want = np.full((5, 6), 255)
    want[1:4, 2:6] = np.where(values == 2, 255, values)
    assert np.array_equal(MaskReader(3, 255).read(path, Window(-1, -2, 5, 6)), want)
    assert np.array_equal(MaskReader(3, 255).read(path), np.where(values == 2, 255, values))
    with pytest.raises(InputError, match=r"value 1 is no class \(0 … 0\); mend .*ignore_index 1 \(now 0\)"):
        MaskReader(1, 0).read(path)
    red = np.zeros((3, 3, 4), np.uint8)
    red[0, 1, 1:3] = 9
    colours = MaskReader(3, 255, [(1, 2, 3), (9, 0, 0)])
    assert np.argwhere(colours.read(write(tmp_path / "c.tif", red))).tolist() == [[1, 1], [1, 2]]
    assert colours.read(tmp_path / "c.tif").max() == 2
    with pytest.raises(InputError, match="colors need three"):
        colours.read(path)


@pytest.mark.parametrize("size", [(9, 8), (6, 12), (8, 12), (6, 9)])
def test_sizes_that_differ_are_said(tmp_path: Path, size: tuple[int, int]):
    pairs(tmp_path, a=(noise(2, 8, 9), np.zeros(size, np.uint8)), v=painted(9, 9, 1))
    with pytest.raises(InputError, match=rf"a\.tif: {size[0]} × {size[1]} px, .*a\.tif has 8 × 9; they must"):
        RasterPairsData(str(tmp_path), **BUILD).setup("fit")


def test_a_class_with_the_number_that_is_ignored_is_refused():
    names = [f"c{index}" for index in range(256)]
    with pytest.raises(ConfigError, match=r"ignore_index 255 is the number of class 'c255'"):
        RasterPairsData("x", names, ["b"], "v")
    RasterPairsData("x", names, ["b"], "v", ignore_index=256)


def test_a_mask_in_colours_is_no_mask_of_indexes(root: Path):
    for name in ("a", "b", "v"):
        mask = np.asarray(Image.open(root / f"masks/{name}.png"))
        Image.fromarray(np.stack([255 * mask, 0 * mask, 0 * mask], -1)).save(root / f"masks/{name}.png")
    with pytest.raises(InputError, match=r"a\.png: 3 bands, a mask of class indexes has one; give .*colors"):
        samples(root)
    assert {int(value) for each in samples(root, colors=[(255, 0, 0)]) for value in np.unique(each["mask"])} == {0, 1}


def test_masks_of_floats_hold_whole_numbers(tmp_path: Path):
    values = np.ones((1, 5, 6), np.float32)
    values[0, 0, 0] = np.nan
    values[0, 0, 1] = -0.5
    read = MaskReader(2, 255).read(write(tmp_path / "whole.tif", values, nodata=-0.5))
    assert read.ravel().tolist() == [255, 255, *[1] * 28]
    for wrong in (0.6, np.inf):
        values[0, 2, 3] = wrong
        with pytest.raises(InputError, match=f"value {wrong} is no whole number"):
            MaskReader(2, 255).read(write(tmp_path / f"{wrong}.tif", values, nodata=-0.5))


def test_names_and_numbers_that_do_not_fit_name_their_key(root: Path):
    for options, message in (
        ({"bands": []}, r"bands is \[\]; name each band"),
        ({"band_indexes": [1, 2]}, "band_indexes has 2 numbers for 1 bands"),
        ({"classes": ["sea", "sea"]}, r"classes is \['sea', 'sea'\]; give each of them a name of its own"),
        ({"classes": ["sea", "ship", "buoy"], "colors": [(1, 1, 1), (1, 1, 1)]}, "colors holds one twice"),
    ):
        given: dict[str, Any] = {"classes": ["sea", "ship"], "bands": ["amplitude"], "validation": "^v"}
        with pytest.raises(ConfigError, match=message):
            RasterPairsData(str(root), **given | options)
