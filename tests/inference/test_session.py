"""What xt.predict is given and gives, from Python."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import xt
from xt.errors import CheckpointError, ConfigError, OutputError, PluginError
from xt.inference import session


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
        ({"bands": 1}, "bands is 1; give their numbers from 1 on"),
        ({"tile": "128"}, "tile is '128'; give a whole number"),
        ({"overlap": 1.5}, "overlap is 1.5; give a whole number"),
        ({"nodata": "x"}, "nodata is 'x'; give a number"),
        ({"nodata": [1, 2]}, r"nodata is \[1, 2\]; give a number"),
        ({"aoi": 3}, "aoi is a int; give a path"),
        ({"mask": np.ones(2)}, "mask is a ndarray; give a path"),
        ({"scratch": 3}, "scratch is a int; give a path"),
    ],
)
def test_arguments_of_another_kind_are_named(place: Path, options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=f"^{message}"):
        xt.predict(xt.load("run"), **{"image": "a.tif", **options})


def test_numbers_may_be_those_of_numpy(place: Path):
    given = {"bands": np.array([1]), "window": np.array([4, 3, 20, 30]), "nodata": np.float32(7), "tile": np.int64(64)}
    with xt.predict(xt.load("run"), Path("a.tif"), **given) as result:
        assert result.shape == (20, 30)
        with xt.predict(
            xt.load("run"), "a.tif", bands=(1,), window=xt.Window(4, 3, 20, 30), nodata=7, tile=64, progress=None
        ) as other:
            for name, pixels in result.read().items():
                assert np.array_equal(pixels, other.read()[name], equal_nan=True)
                part = other.read((2, 3, 5, 7))[name]
                assert np.array_equal(pixels[2:7, 3:10], part, equal_nan=True)


def test_another_working_directory_changes_nothing(place: Path, monkeypatch: pytest.MonkeyPatch):
    (place / "sub").mkdir()
    (place / "scratch").mkdir()
    before = (place / "a.tif").read_bytes()
    with xt.predict(xt.load("run"), "a.tif", bands=[1], scratch="scratch") as result:
        monkeypatch.chdir("sub")
        assert result.read((0, 0, 2, 2))
        with pytest.raises(OutputError, match="would replace the input"):
            result.write("../a.tif", overwrite=True)
        assert (place / "a.tif").read_bytes() == before
        with pytest.raises(ConfigError, match="out is a int; give a path"):
            result.write(5)
    assert not list((place / "scratch").iterdir())
    with pytest.raises(OutputError, match="nowhere"):
        xt.predict(xt.load("../run"), "../a.tif", bands=[1], scratch="nowhere")


def test_a_model_that_is_being_trained_answers_as_it_does_afterwards(place: Path, monkeypatch: pytest.MonkeyPatch):
    model, seen = xt.load("run"), []
    model.network.train()
    model.network.decoder.eval()
    plain = session.predict_image
    monkeypatch.setattr(
        session, "predict_image", lambda network, *given: seen.append(network.training) or plain(network, *given)
    )
    xt.predict(model, "a.tif", bands=[1]).close()
    assert seen == [False]
    assert model.network.training
    assert model.network.region_encoder.training
    assert not model.network.decoder.training


def test_a_model_of_another_type_is_told(place: Path):
    for change in (torch.nn.Module.half, torch.nn.Module.double):
        model = xt.load("run")
        change(model.network)
        with pytest.raises(
            ConfigError, match=r"the model is of torch.float(16|64); keep it in float32, and give precision='bf16'"
        ):
            xt.predict(model, "a.tif", bands=[1])
    with pytest.raises(ConfigError, match="path is a int; give a path"):
        xt.load(5)
    with pytest.raises(PluginError, match="no_such_module"):
        xt.load("run", plugins="no_such_module")


def test_arguments_of_training_of_another_kind_are_named():
    for given, message in (
        (({"trainer": {}},), "config is a dict; give the path of a YAML file"),
        (("c.yaml", "--trainer.max_steps 1"), "overrides is '--trainer.max_steps 1'; give a list such as"),
        (("c.yaml", {"trainer.max_steps": 1}), "overrides is {'trainer.max_steps': 1}; give a list such as"),
        (("none.yaml", ["--trainer.max_steps", 1]), "none.yaml"),
    ):
        with pytest.raises(ConfigError, match=message):
            xt.train(*given)


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
