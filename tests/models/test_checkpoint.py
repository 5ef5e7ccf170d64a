import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from xt import files
from xt.errors import CheckpointError, ModelError, OutputError, PluginError
from xt.files import previous
from xt.models import checkpoint
from xt.models.checkpoint import load_model, load_weights, read_description, read_metadata, save_model
from xt.models.factory import build_from_spec
from xt.models.metadata import ModelMetadata
from xt.models.xt import XT

METADATA = ModelMetadata("point-detection", ("VV_dB", "VH_dB"), (-40.0, -40.0), (15.0, 15.0), nodata=-32768.0,
                         image_size=512, resolution=10.0, thresholds={"center": 100.0})  # fmt: skip


def build(context: str = "Identity") -> XT:
    spec = {
        "region_encoder": {
            "class_path": "TimmFeatures",
            "init_args": {
                "name": "convnext_atto",
                "in_chans": 2,
                "region_size": 64,
                "model_args": {"dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
            },
        },
        "context": {"class_path": context},
        "context_dim": 128,
        "decoder": {"class_path": "UNet", "init_args": {"filters": [8, 8, 8, 8]}},
        "heads": {"center": 1, "b": 2},
        "region_batch": 2,
        "decode_size": 64,
        "streaming": True,
    }
    return build_from_spec(spec)


@pytest.mark.parametrize("context", ["Identity", "Mamba", "Hyper", "TransformerXL", "FullAttention"])
def test_saved_model_gives_the_same_output(tmp_path: Path, context: str):
    model = build(context).eval()
    save_model(tmp_path / "run" / "model", model, METADATA)
    loaded, metadata = load_model(tmp_path / "run")
    assert metadata == METADATA
    x = torch.randn(1, 2, 100, 90)
    with torch.no_grad():
        assert torch.equal(loaded(x)["b"], model(x)["b"])
    assert loaded.spec() == model.spec()


def test_a_file_is_no_model_folder(tmp_path: Path):
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(CheckpointError, match=r"last.ckpt is a file; give a run folder"):
        load_model(tmp_path / "last.ckpt")


def test_interrupted_save_keeps_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "model"
    model = build()
    save_model(folder, model, METADATA)
    calls: list[str] = []

    def full(source: object, target: object) -> None:
        calls.append(str(target))
        if len(calls) == 2:
            raise KeyboardInterrupt
        os.rename(source, target)

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(KeyboardInterrupt):
        save_model(folder, model, METADATA)
    assert load_model(folder)[1] == METADATA
    monkeypatch.undo()
    os.rename(folder, previous(folder))  # where a kill between two renames leaves it
    assert load_model(folder)[1] == METADATA
    save_model(folder, model, METADATA)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_failed_write_says_so_and_leaves_no_partial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OutputError, match="No space left"):
        save_model(tmp_path / "model", build(), METADATA)
    assert list(tmp_path.iterdir()) == []


def test_colleagues_can_read_a_saved_model(tmp_path: Path):
    old = os.umask(0o022)
    try:
        save_model(tmp_path / "model", build(), METADATA)
    finally:
        os.umask(old)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in [tmp_path / "model", *(tmp_path / "model").iterdir()]}
    assert modes == {"model": 0o755, "config.json": 0o644, "model.safetensors": 0o644}


def test_one_flipped_byte_is_found(tmp_path: Path):
    save_model(tmp_path / "model", build(), METADATA)
    weights = tmp_path / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-100] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(tmp_path)


def test_config_cannot_name_an_import(tmp_path: Path):
    save_model(tmp_path / "model", build(), METADATA)
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config["model"]["context"]["class_path"] = "os:system"
    path.write_text(json.dumps(config))
    with pytest.raises(PluginError, match="os:system"):
        load_model(tmp_path)


def test_other_weights_list_what_differs(tmp_path: Path):
    state = build().state_dict()
    state["x"] = state.pop("heads.b.bias")
    state["heads.b.weight"] = torch.zeros(3)
    with pytest.raises(CheckpointError, match=r"1 missing: heads\.b\.bias; 1 unexpected: x; 1 of another shape"):
        checkpoint.load_weights(build(), state, "file")


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: (p / "model").mkdir(parents=True)])
def test_missing_model_says_what_to_give(tmp_path: Path, make: object):
    make(tmp_path / "run")
    with pytest.raises(CheckpointError, match="give a run folder"):
        load_model(tmp_path / "run")


def change(tmp_path: Path, **values: object) -> None:
    """Save a model and change its description; None takes a key out."""
    save_model(tmp_path / "model", build(), METADATA)
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config["model"] = {key: value for key, value in (config["model"] | values).items() if value is not None}
    for key in ("nodata", "gsd", "thresholds", "center_activation", "coarse_bands", "mlm:name"):
        config["metadata"].pop(key, None)
    path.write_text(json.dumps(config))


def test_a_model_of_a_version_that_wrote_less_is_read(tmp_path: Path):
    change(tmp_path, region_batch=None, decode_size=None, streaming=None)
    model, metadata = load_model(tmp_path)
    assert (model.region_batch, model.decode_size, model.streaming) == (64, 512, True)
    assert (metadata.nodata, metadata.thresholds, metadata.name) == (None, {}, "xt")


@pytest.mark.parametrize("name", ["values", "a.b", ""])
def test_heads_that_torch_cannot_hold_are_named(name: str):
    with pytest.raises(ModelError, match=f"a head cannot be called '{name}', which PyTorch keeps for itself"):
        build_from_spec(build().spec() | {"heads": {name: 1}})


def test_unknown_keys_and_missing_parts_are_refused(tmp_path: Path):
    change(tmp_path, region_bath=3)
    with pytest.raises(ModelError, match="unknown key 'region_bath'; did you mean 'region_batch'"):
        load_model(tmp_path)
    change(tmp_path, decoder=None)
    with pytest.raises(ModelError, match="has no decoder"):
        load_model(tmp_path)


def test_weights_of_any_type_are_loaded_and_fractions_are_finite():
    class Mixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))
            self.b = torch.nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)
            self.c = torch.nn.Parameter(torch.ones(2))

    model = Mixed()
    load_weights(model, model.state_dict() | {"c": torch.full((2,), 0.5).to(torch.float8_e4m3fn)}, "x")
    assert model.c.tolist() == [0.5, 0.5]
    for wrong in (torch.tensor([1, 2]), torch.tensor([1.0, torch.inf])):
        with pytest.raises(CheckpointError, match="x does not fit the model: 1 without finite fractions: c"):
            load_weights(model, model.state_dict() | {"c": wrong}, "x")


@pytest.mark.parametrize("read", [load_model, read_description, read_metadata])
def test_metadata_that_cannot_be_name_their_file(tmp_path: Path, read: Callable[[Path], object]):
    save_model(tmp_path / "m", build(), METADATA)
    path = tmp_path / "m/config.json"
    values = json.loads(path.read_text())
    del values["metadata"]["mlm:input"]
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=rf"{path}: .*not valid"):
        read(tmp_path / "m")
