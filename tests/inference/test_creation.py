import logging

import pytest

from xt.errors import ConfigError
from xt.inference.creation import DEFAULTS, check_cog
from xt.tasks.base import Product

CLASSES = Product(("class",), "uint8", 255)
MAPS = Product(("a", "b", "c", "d"), "float32", float("nan"))
GOOD = [
    {"COMPRESS": "ZSTD", "LEVEL": "9"}, {"compress": "none"}, {"COMPRESS": "LZW", "PREDICTOR": "YES"}, {"LEVEL": "9"},
    {"BIGTIFF": "YES"}, {"BLOCKSIZE": "256"}, {"NUM_THREADS": "ALL_CPUS"}, {"OVERVIEWS": "NONE"}, {"SPARSE_OK": "TRUE"},
    {"COMPRESS": "LERC_ZSTD"}, {"COMPRESS": "LZMA", "LEVEL": "1"}, {"OVERVIEW_COMPRESS": "LZW"},
]  # fmt: skip


@pytest.mark.parametrize("options", GOOD, ids=str)
@pytest.mark.parametrize("product", [CLASSES, MAPS], ids=["classes", "maps"])
def test_options_that_the_driver_knows_are_taken(options: dict[str, str], product: Product):
    assert check_cog(options, product) == DEFAULTS | {key.lower(): value for key, value in options.items()}


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
