import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.errors import NotGeoreferencedWarning
from small_inputs import raster

from xt.errors import ConfigError
from xt.inference.creation import DEFAULTS, check_cog, defaults
from xt.tasks.base import Product

CLASSES = Product(("class",), "uint8", 255)
MAPS = Product(("a", "b", "c", "d"), "float32", float("nan"))
GOOD = [
    {"COMPRESS": "ZSTD", "LEVEL": "9"}, {"compress": "none"}, {"COMPRESS": "LZW", "PREDICTOR": "YES"}, {"LEVEL": "9"},
    {"BIGTIFF": "YES"}, {"BLOCKSIZE": "256"}, {"NUM_THREADS": "ALL_CPUS"}, {"OVERVIEWS": "NONE"}, {"SPARSE_OK": "TRUE"},
    {"COMPRESS": "LERC_ZSTD"}, {"COMPRESS": "LZMA", "LEVEL": "1"}, {"OVERVIEW_COMPRESS": "LZW"},
    {"OVERVIEW_COMPRESS": "NONE"}, {"OVERVIEW_COMPRESS": "LERC"}, {"PREDICTOR": "NO"}, {"PREDICTOR": "STANDARD"},
]  # fmt: skip


@pytest.mark.parametrize("options", GOOD, ids=str)
@pytest.mark.parametrize("product", [CLASSES, MAPS], ids=["classes", "maps"])
def test_options_that_the_driver_knows_are_taken(options: dict[str, str], product: Product):
    said = {key.lower(): value for key, value in options.items()}
    assert check_cog(options, product) == defaults(options, product) | said


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({}, {"predictor": "yes", "level": 1}),
        ({"blocksize": "256"}, {"predictor": "yes", "level": 1}),
        ({"COMPRESS": "zstd"}, {"predictor": "yes"}),
        ({"compress": "LERC"}, {}),
        ({"COMPRESS": "NONE"}, {}),
    ],
)
def test_floats_are_packed_by_their_bytes(options: dict[str, str], more: dict[str, object]):
    assert defaults(options, CLASSES) == DEFAULTS
    assert defaults(options, MAPS) == DEFAULTS | more


def test_packed_floats_are_smaller_and_the_same(tmp_path: Path):
    y, x = np.mgrid[:600, :600] / 50
    values = (np.sin(y) + np.cos(x) + np.random.default_rng(0).normal(0, 0.01, (4, 600, 600))).astype(np.float32)
    sizes = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        plain = raster(tmp_path / "plain.tif", values)
        for name, options in (("ours", {}), ("plain", {"PREDICTOR": "NO", "LEVEL": "6"})):
            rasterio.shutil.copy(plain, tmp_path / f"{name}-cog.tif", **check_cog(options, MAPS))
            sizes[name] = (tmp_path / f"{name}-cog.tif").stat().st_size
        with rasterio.open(tmp_path / "ours-cog.tif") as dataset:
            assert dataset.tags(ns="IMAGE_STRUCTURE")["PREDICTOR"] == "3"
            assert np.array_equal(dataset.read(), values)
    assert sizes["ours"] < 0.9 * sizes["plain"]


BAD = [
    ("COMPRESS", "NOPE", "not a lossless"), ("COMPRESS", "", "not a lossless"), ("LEVEL", "99", "not recognised"),
    ("LEVEL", "x", "unexpected value"), ("PREDICTOR", "9", "unexpected value"), ("NUM_THREADS", "many", "Invalid value"),
    ("PREDICTOR", "FLOATING_POINT", "only supported with Float"), ("BIGTIFF", "q", "unexpected value"),
    ("SPARSE_OK", "hm", "unexpected value"), ("OVERVIEWS", "q", "unexpected value"), ("BLOCKSIZE", "137", "multiple of 16"),
    ("BLOCKSIZE", "64", "from 128"), ("BLOCKSIZE", "65536", "to 2048"), ("BLOCKSIZE", "a", "multiple of 16"),
    ("OVERVIEW_COMPRESS", "JPEG", "not a lossless"), ("COMPRES", "LZW", "did you mean 'COMPRESS'"),
    ("BLOCKXSIZE", "256", "calls it BLOCKSIZE"), ("blockysize", "256", "calls it BLOCKSIZE"), ("ZLEVEL", "9", "calls it LEVEL"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "reason"), BAD)
def test_wrong_value_is_named(key: str, value: str, reason: str):
    with pytest.raises(ConfigError) as caught:
        check_cog({"NUM_THREADS": "1", key: value}, CLASSES)
    text = str(caught.value)
    assert text.startswith(f"--co {key}={value}: ")
    assert reason in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "key",
    ["driver", "height", "WIDTH", "count", "dtype", "crs", "transform", "nodata", "gcps", "rpcs", "tiled", "mode", "sharing",
     "NBITS", "QUALITY", "TILING_SCHEME", "TARGET_SRS", "RES", "ADD_ALPHA", "GEOTIFF_VERSION", "MAX_Z_ERROR", "RESAMPLING"],
)  # fmt: skip
def test_what_would_change_grid_format_or_values_is_not_taken(key: str):
    with pytest.raises(ConfigError, match=f"^--co {key}=1: this option is not taken"):
        check_cog({key: "1"}, CLASSES)


@pytest.mark.parametrize("name", ["JPEG", "WEBP", "JXL", "CCITTFAX4"])
def test_lossy_compression_is_not_taken(name: str):
    with pytest.raises(ConfigError, match=f"^--co COMPRESS={name}: not a lossless"):
        check_cog({"COMPRESS": name}, CLASSES)


def test_the_driver_says_nothing_beside_the_error(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING), pytest.raises(ConfigError):
        check_cog({"LEVEL": "x"}, CLASSES)
    assert caplog.messages == []
    logging.getLogger("rasterio._env").warning("later")
    assert caplog.messages == ["later"]
