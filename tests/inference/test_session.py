"""What xt.predict is given and gives, from Python."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xt
from xt.errors import CheckpointError, ConfigError, OutputError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bands": "1,2,3"}, r"bands is '1,2,3'; give their numbers from 1 on, such as \[1, 2, 3\]"),
        ({"bands": ["red"]}, r"bands is \['red'\]; give their numbers"),
        ({"bands": [1.0]}, r"bands is \[1.0\]; give their numbers"),
        ({"window": (1, 2, 3)}, r"window is \(1, 2, 3\); give an xt.Window, or its row, column, height and width"),
        ({"window": "all"}, "window is 'all'; give an xt.Window"),
        ({"image": np.zeros((1, 4, 4))}, "image is a ndarray; give the path of a file, which is read by windows"),
        ({"image": None}, "image is a NoneType; give the path"),
    ],
)
def test_arguments_of_another_kind_are_named(place: Path, options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=f"^{message}"):
        xt.predict(xt.load("run"), **{"image": "a.tif", **options})


def test_numbers_may_be_those_of_numpy(place: Path):
    given = {"bands": np.array([1]), "window": [np.int64(4), 3, 20, 30]}
    with xt.predict(xt.load("run"), Path("a.tif"), **given) as result:
        assert result.shape == (20, 30)
        with xt.predict(xt.load("run"), "a.tif", bands=(1,), window=xt.Window(4, 3, 20, 30)) as other:
            for name, pixels in result.read().items():
                assert np.array_equal(pixels, other.read()[name], equal_nan=True)


def test_a_network_is_no_model(place: Path):
    with pytest.raises(ConfigError, match=r"^model is a XT; it must be what xt\.load gives$"):
        xt.predict(xt.load("run").network, "a.tif")


def test_heads_that_are_not_those_of_the_task_are_named(place: Path):
    model = xt.load("run")
    other = replace(model.metadata, task="classification", task_class="ImageClassification", classes=("a", "b"))
    with pytest.raises(
        CheckpointError, match=r"^the model has the heads .*its task ImageClassification needs \{'label'"
    ):
        xt.predict(xt.TrainedModel(model.network, other), "a.tif")


def test_the_option_that_replaces_a_file_is_that_of_python(place: Path):
    Path("o.tif").write_text("mine")
    with (
        xt.predict(xt.load("run"), "a.tif") as result,
        pytest.raises(OutputError, match="; overwrite=True replaces it"),
    ):
        result.write("o.tif")
    assert Path("o.tif").read_text() == "mine"
