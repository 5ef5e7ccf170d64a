from pathlib import Path

import pytest

from xt.data.splits import Splits, rasters
from xt.errors import ConfigError, InputError


def test_names_share_images_out():
    names = ["a1", "b1", "v1", "vt", "t1"]
    assert Splits("^v", "t").share(names, str) == {"train": ["a1", "b1"], "validation": ["v1"], "test": ["vt", "t1"]}
    alone = Splits("^v", None).share(names, str)
    assert alone == {"train": ["a1", "b1", "t1"], "validation": ["v1", "vt"], "test": ["v1", "vt"]}


def test_empty_splits_and_wrong_patterns_are_said():
    splits = Splits("v", "x")
    shares = splits.share(["a", "v"], str)
    splits.check(shares, "validation")
    for split in ("train", "test"):
        with pytest.raises(InputError, match="no test image: validation 'v', test 'x'; names are such as 'a'"):
            splits.check(shares, split)
    both = Splits("v", "v")
    with pytest.raises(InputError, match=r"no validation image: .* test 'v'; those that both match are test images"):
        both.check(both.share(["a", "v"], str), "train")
    with pytest.raises(InputError, match="there is no image at all"):
        splits.check(splits.share([], str), "train")
    with pytest.raises(ConfigError, match=r"data\.init_args\.test '\[' is no regular expression"):
        Splits("v", "[")


def test_hidden_files_are_no_images(tmp_path: Path):
    for name in ("a.tif", "._a.tif", ".b.png", "notes.txt"):
        (tmp_path / name).touch()
    assert rasters(tmp_path) == [tmp_path / "a.tif"]


def test_mosaics_are_images_where_nothing_else_is(tmp_path: Path):
    for name in ("b.vrt", "a.VRT"):
        (tmp_path / name).touch()
    assert rasters(tmp_path) == [tmp_path / "a.VRT", tmp_path / "b.vrt"]
    (tmp_path / "c.jp2").touch()
    assert rasters(tmp_path) == [tmp_path / "c.jp2"]
