import logging

import pytest

from xt.errors import ConfigError
from xt.inference.creation import DEFAULTS, check_creation

GOOD = [
    {"COMPRESS": "ZSTD", "ZSTD_LEVEL": "9"}, {"compress": "none"}, {"COMPRESS": "LZW", "PREDICTOR": "2"}, {"ZLEVEL": "9"},
    {"BIGTIFF": "YES"}, {"BLOCKXSIZE": "256", "BLOCKYSIZE": "1024"}, {"NUM_THREADS": "ALL_CPUS"}, {"INTERLEAVE": "BAND"},
    {"SPARSE_OK": "TRUE"}, {"ENDIANNESS": "BIG"}, {"COMPRESS": "LERC_ZSTD"}, {"COMPRESS": "LZMA", "LZMA_PRESET": "1"},
]  # fmt: skip


@pytest.mark.parametrize("options", GOOD, ids=str)
@pytest.mark.parametrize("kind", [("uint8", 1), ("float32", 4)], ids=str)
def test_options_that_the_driver_knows_are_taken(options: dict[str, str], kind: tuple[str, int]):
    assert check_creation(options, *kind) == DEFAULTS | {key.lower(): value for key, value in options.items()}


BAD = [
    ("COMPRESS", "NOPE", "not a lossless"), ("COMPRESS", "", "not a lossless"), ("ZLEVEL", "99", "not recognised"),
    ("ZLEVEL", "x", "unexpected value"), ("PREDICTOR", "9", "not supported"), ("PREDICTOR", "3", "only supported with Float"),
    ("BIGTIFF", "q", "unexpected value"), ("NUM_THREADS", "many", "Invalid value"), ("INTERLEAVE", "x", "unexpected value"),
    ("SPARSE_OK", "hm", "unexpected value"), ("BLOCKXSIZE", "17", "multiple of 16"), ("BLOCKYSIZE", "0", "multiple of 16"),
    ("BLOCKXSIZE", "-16", "multiple of 16"), ("BLOCKYSIZE", "65536", "up to 2048"), ("BLOCKXSIZE", "a", "multiple of 16"),
    ("ZSTD_LEVEL", "99", "not recognised"), ("COMPRES", "LZW", "did you mean 'COMPRESS'"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "reason"), BAD)
def test_wrong_value_is_named(key: str, value: str, reason: str):
    first = {"COMPRESS": "ZSTD"} if key.startswith("ZSTD") else {"INTERLEAVE": "PIXEL"} if key != "INTERLEAVE" else {}
    with pytest.raises(ConfigError) as caught:
        check_creation({**first, key: value}, "uint8", 1)
    text = str(caught.value)
    assert text.startswith(f"--co {key}={value}: ")
    assert reason in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "key",
    ["driver", "height", "WIDTH", "count", "dtype", "crs", "transform", "nodata", "gcps", "rpcs", "tiled", "mode", "sharing",
     "NBITS", "PIXELTYPE", "PHOTOMETRIC", "ALPHA", "PROFILE", "TFW", "COPY_SRC_OVERVIEWS", "MAX_Z_ERROR", "DISCARD_LSB"],
)  # fmt: skip
def test_what_would_change_grid_format_or_values_is_not_taken(key: str):
    with pytest.raises(ConfigError, match=f"^--co {key}=1: this option is not taken"):
        check_creation({key: "1"}, "uint8", 1)


@pytest.mark.parametrize("name", ["JPEG", "WEBP", "JXL", "CCITTFAX4"])
def test_lossy_compression_is_not_taken(name: str):
    with pytest.raises(ConfigError, match=f"^--co COMPRESS={name}: not a lossless"):
        check_creation({"COMPRESS": name}, "uint8", 1)


def test_the_driver_says_nothing_beside_the_error(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING), pytest.raises(ConfigError):
        check_creation({"ZLEVEL": "x"}, "uint8", 1)
    assert caplog.messages == []
    logging.getLogger("rasterio._env").warning("later")
    assert caplog.messages == ["later"]
