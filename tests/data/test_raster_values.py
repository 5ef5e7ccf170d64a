from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasters import noise, write

from xt.data.raster_values import RasterValuesData, ValueReader
from xt.errors import ConfigError, InputError
from xt.geometry.grid import Window

OPTIONS: dict[str, Any] = {"targets": ["height", "slope"], "bands": ["a"], "validation": "^v", "image_size": 24}


def known(height: int, width: int, seed: int) -> np.ndarray:
    """A height of which a row is missing by the tag, and a slope of which a column is missing by NaN."""
    values = noise(2, height, width, seed=seed)
    values[0, 5], values[1, :, 7] = -9, np.nan
    return values


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a", "b", "v")):
        image = noise(1, 40, 60, seed=10 + seed)
        image[0, :, :3] = np.nan
        write(tmp_path / f"images/{name}.tif", image)
        write(tmp_path / f"values/{name}.tif", known(40, 60, seed), nodata=-9)
    return tmp_path


def make(root: Path, **options: Any) -> RasterValuesData:
    data = RasterValuesData(str(root), **OPTIONS | options)
    data.setup("fit")
    return data


def test_windows_are_read_with_what_is_missing_of_each_band(root: Path):
    want = known(40, 60, 0)
    want[want == -9] = np.nan
    reader = ValueReader((2, 1))
    np.testing.assert_array_equal(reader.read(root / "values/a.tif"), want[::-1])
    got = reader.read(root / "values/a.tif", Window(30, -4, 20, 30))
    around = np.full((2, 20, 30), np.nan, np.float32)
    around[:, :10, 4:] = want[::-1, 30:, :26]
    np.testing.assert_array_equal(got, around)
    assert got.dtype == np.float32
    also = ValueReader((1,), float(want[0, 0, 0]))
    assert np.isnan(also.read(root / "values/a.tif")[0, 0, 0])


def test_numbers_of_other_types_are_taken(tmp_path: Path):
    for dtype in ("int16", "float64", "uint8"):
        values = np.arange(12).reshape(1, 3, 4).astype(dtype)
        path = write(tmp_path / f"{dtype}.tif", values, nodata=3)
        want = np.where(values == 3, np.nan, values).astype(np.float32)
        np.testing.assert_array_equal(ValueReader((1,)).read(path), want)


def test_numbers_turn_with_their_image_and_are_missing_where_it_is(root: Path):
    for name, seed in (("a", 0), ("b", 1)):
        image = np.nan_to_num(known(40, 60, seed)[:1], nan=0.0)
        image[0, :, :3] = np.nan
        write(root / f"images/{name}.tif", image)  # the height itself
    data = make(root, mean=[0.0], std=[1.0], crops_per_image=20)
    dataset = data.train_dataloader().dataset
    for index in range(len(dataset)):
        sample = dataset[0, index]
        image, valid, (height, slope) = sample["image"][0], sample["valid"][0], sample["values"]
        there = np.isfinite(height)
        np.testing.assert_array_equal(height[there], image[there])
        assert there.sum() > 400
        assert not np.isfinite(slope[~valid]).any()
        assert not there[~valid].any()
        assert not there[image == -9].any()


def test_validation_has_whole_images(root: Path):
    (sample,) = make(root, mean=[0.0], std=[1.0]).val_dataloader()
    want = known(40, 60, 2)
    want[want == -9] = np.nan
    want[:, :, :3] = np.nan
    np.testing.assert_array_equal(sample["values"][0].numpy(), want)
    assert sample["name"] == ["v.tif"]


def test_mean_and_deviation_are_those_of_known_training_numbers(root: Path):
    data = make(root)
    values = np.stack([known(40, 60, 0), known(40, 60, 1)], 1).astype(np.float64)
    values[values == -9] = np.nan
    values[..., :3] = np.nan  # where the images have no data
    np.testing.assert_allclose(data.target_mean, np.nanmean(values, (1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(data.target_std, np.nanstd(values, (1, 2, 3)), rtol=1e-6)
    values[values == (rare := values[1, 0, 0, 3])] = np.nan
    lacking = make(root, target_nodata=float(rare))
    np.testing.assert_allclose(lacking.target_mean, np.nanmean(values, (1, 2, 3)), rtol=1e-6)
    assert lacking.target_mean != data.target_mean
    swapped = make(root, target_indexes=[2, 1], targets=["slope", "height"])
    assert swapped.target_mean == data.target_mean[::-1]
    given = make(root, target_mean=[1.0, 2.0], target_std=[3.0, 4.0])
    assert (given.target_mean, given.target_std) == ((1.0, 2.0), (3.0, 4.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": []}, r"targets is \[\]; give each of them a name of its own"),
        ({"targets": ["x", "x"]}, r"targets is \['x', 'x'\]"),
        ({"target_mean": [0.0, 1.0]}, "give both target_mean and target_std"),
        ({"target_indexes": [0, 1]}, r"target_indexes is \[0, 1\]; the first band is 1"),
        ({"target_indexes": [1]}, r"target_indexes has 1 numbers for 2 targets"),
        ({"target_mean": [0.0], "target_std": [1.0]}, r"target_mean has 1 numbers for 2 targets"),
        ({"target_mean": [0.0, 0.0], "target_std": [1.0, 0.0]}, r"target_std is \[1.0, 0.0\]; each must be above 0"),
    ],
)
def test_wrong_options_name_their_key(root: Path, options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        make(root, **options)


def test_wrong_rasters_are_named(root: Path):
    with pytest.raises(
        InputError, match=r"a\.tif: 2 bands, the targets are bands 1, 2, 3; set data\.init_args\.targets"
    ):
        make(root, targets=["x", "y", "z"])
    with pytest.raises(InputError, match=r"no folder /.*heights; a relative root .* set --data.root"):
        make(root, values="heights")
    write(root / "values/a.tif", known(40, 59, 0))
    with pytest.raises(
        InputError, match=r"values/a\.tif: 40 × 59 px, .*images/a\.tif has 40 × 60; they must be on one grid"
    ):
        make(root)
    for name in ("a", "b"):
        values = known(40, 60, 0)
        values[1] = np.nan
        write(root / f"values/{name}.tif", values)
    with pytest.raises(InputError, match=r"target slope: .* holds no valid pixel"):
        make(root)


def test_numbers_are_taken_with_the_scale_and_offset_of_their_file(root: Path):
    plain = make(root)
    want = {name: plain.labels.read(root / f"values/{name}.tif") for name in ("a", "b", "v")}
    for name, scale, offset in (("a", 0.25, 100.0), ("b", 0.5, -3.0)):
        values = known(40, 60, "abv".index(name))
        stored = np.where(np.isfinite(values) & (values != -9), (values - offset) / scale, values)
        path = write(root / f"values/{name}.tif", stored.astype(np.float32), nodata=-9)
        with rasterio.open(path, "r+") as file:
            file.scales, file.offsets = [scale] * 2, [offset] * 2
    scaled = make(root)
    for name, values in want.items():
        np.testing.assert_allclose(scaled.labels.read(root / f"values/{name}.tif"), values, rtol=1e-4, atol=1e-4)
    assert scaled.target_mean == pytest.approx(plain.target_mean, rel=1e-5)
    assert scaled.target_std == pytest.approx(plain.target_std, rel=1e-5)


def test_numbers_are_measured_where_their_image_has_data(root: Path):
    image, values = noise(1, 40, 60, seed=10), known(40, 60, 0)
    image[0, :20], values[:, :20] = np.nan, 1e6
    write(root / "images/a.tif", image)
    write(root / "values/a.tif", values, nodata=-9)
    seen = [values[:, 20:], known(40, 60, 1)[:, :, 3:]]
    joined = np.concatenate([each.reshape(2, -1) for each in seen], 1).astype(np.float64)
    joined[joined == -9] = np.nan
    data = make(root)
    assert data.target_mean == pytest.approx(np.nanmean(joined, 1), rel=1e-5)
    assert data.target_std == pytest.approx(np.nanstd(joined, 1), rel=1e-5)
