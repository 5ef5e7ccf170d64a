"""Released classifiers: the released code's own answer on a small checkpoint is the reference for the whole model."""

import pickle
import warnings
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import xt
from xt.cli.main import main
from xt.errors import CheckpointError
from xt.models import upstream
from xt.models.checkpoint import load_model
from xt.models.factory import build_from_spec
from xt.models.state_files import read_state

GOLDEN = "golden/upstream_xt/xt_hyper_512_256.safetensors"
SIZES = {"embed_dim": 8, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 2, 4), "window_size": 16}
MAMBA = {"class_path": "Mamba", "init_args": {"depth": 3, "d_state": 8, "d_conv": 3, "expand": 1}}
HYPER = {"class_path": "Hyper", "init_args": {"depth": 1, "mlp_ratio": 2.0, "causal": True, "taper": False}}


@pytest.mark.parametrize("streaming", [True, False])
def test_logits_equal_those_of_the_release(shared_data: Path, streaming: bool):
    tensors = load_file(shared_data / GOLDEN)
    with safe_open(shared_data / GOLDEN, "pt") as file:
        assert file.metadata()["context"] == "hyper"
    model = xt.load_upstream(shared_data / GOLDEN)
    model.model.streaming = streaming
    with torch.no_grad():
        logits = model(tensors["input"])
    torch.testing.assert_close(logits, tensors["logits"], atol=2e-5, rtol=2e-5)


def test_a_release_becomes_a_model_folder(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"snake {i}" for i in range(11)))
    argv = ["import-upstream", str(shared_data / GOLDEN), "-o", str(tmp_path / "m"), "--classes", str(names)]
    assert main(argv) == 0
    assert "context Hyper, 11 classes" in capsys.readouterr().out
    model, metadata = load_model(tmp_path / "m")
    tensors = load_file(shared_data / GOLDEN)
    with torch.no_grad():
        logits = model(tensors["input"])["label"]
    torch.testing.assert_close(logits, tensors["logits"], atol=2e-5, rtol=2e-5)
    assert metadata.classes[10] == "snake 10"
    assert metadata.bands == ("red", "green", "blue")
    assert main(argv) == 2
    assert "exists; choose another folder" in capsys.readouterr().err
    names.write_text("snake")
    assert main([*argv[:2], "-o", str(tmp_path / "q"), "--classes", str(names)]) == 3
    assert "1 different names; the checkpoint has 11 classes" in capsys.readouterr().err


class NoContext(nn.Module):
    """The released head without context on a timm backbone, written out."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.model = timm.create_model("swinv2_tiny_window16_256", img_size=64, features_only=True, **SIZES)
        self.head = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.LayerNorm(256), nn.Linear(256, 5))

    def forward(self, image: Tensor) -> Tensor:
        rows = [torch.cat([self.encoder.model(part)[-1] for part in row.split(64, 3)], 2) for row in image.split(64, 2)]
        return self.head(torch.cat(rows, 1).mean((1, 2)))


def randomize(model: nn.Module) -> None:
    for value in model.parameters():
        nn.init.normal_(value, std=0.2)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_a_release_without_context_gives_its_logits(tmp_path: Path, prefix: str):
    torch.manual_seed(0)
    reference = NoContext().eval()
    randomize(reference)
    state = {f"{prefix}{key}": value for key, value in reference.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state, "metrics": {"top1": 0.5}}, tmp_path / "a.pth")
    model = xt.load_upstream(tmp_path / "a.pth", 64)
    image = torch.randn(2, 3, 128, 192)
    with torch.no_grad():
        torch.testing.assert_close(model(image), reference(image), atol=1e-5, rtol=1e-5)


def released(context: dict[str, object], path: Path) -> nn.Module:
    """A model of this package, whose weights are written under the released names."""
    torch.manual_seed(0)
    encoder = {"in_chans": 3, "name": "swinv2_t", "region_size": 64, "model_args": SIZES}
    model = build_from_spec(
        {
            "region_encoder": {"class_path": "TimmFeatures", "init_args": encoder}, "context": context, "context_dim": 128,
            "decoder": {"class_path": "ClassToken", "init_args": {}}, "heads": {"label": 7},
        }
    ).eval()  # fmt: skip
    randomize(model)
    state = {}
    for key, value in model.state_dict().items():
        old, new = next((old, new) for old, new in upstream.RENAMES.items() if key.startswith(new))
        state[old + key.removeprefix(new)] = value
    save_file(state, path)
    return model


@pytest.mark.parametrize("context", [MAMBA, HYPER], ids=["Mamba", "Hyper"])
def test_sizes_are_read_from_the_weights(tmp_path: Path, context: dict[str, object]):
    model = released(context, tmp_path / "c.safetensors")
    again = upstream.read_upstream(tmp_path / "c.safetensors", 64)
    image = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        assert torch.equal(again(image)["label"], model(image)["label"])
    found = again.spec()["context"]["init_args"]
    assert {key: found[key] for key in context["init_args"]} == context["init_args"]
    assert again.spec()["region_encoder"] == model.spec()["region_encoder"]


@pytest.mark.parametrize("preset", ["swinv2_t", "swinv2_s", "swinv2_b", "swinv2_l"])
def test_the_papers_backbones_are_known_by_their_sizes(preset: str):
    from xt.models.region.timm_features import PRESETS

    with torch.device("meta"):
        backbone = timm.create_model(PRESETS[preset].split(".")[0], features_only=True)
    state = {f"encoder.model.{key}": value for key, value in backbone.state_dict().items()}
    assert upstream._swin(state, state["encoder.model.patch_embed.proj.weight"]) == {"name": preset}


@pytest.mark.parametrize("data", [b"junk", b"\x80", b"(", b"\x80\x02]q\x00.", pickle.dumps(3), b"PK\x03\x04"])
def test_what_is_no_file_of_tensors_is_one_line(tmp_path: Path, data: bytes):
    (tmp_path / "j.pth").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            CheckpointError, match=r"j\.pth (cannot be read|holds more than tensors|is not a state dict)"
        ):
            read_state(tmp_path / "j.pth")


def test_full_memory_is_no_fault_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def load(*args: object, **options: object) -> None:
        raise MemoryError

    (tmp_path / "j.pth").touch()
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(MemoryError):
        read_state(tmp_path / "j.pth")


def test_what_is_no_release_is_refused_by_name(tmp_path: Path):
    def refused(state: dict[str, Tensor]) -> str:
        torch.save(state, tmp_path / "c.pth")
        with pytest.raises(CheckpointError) as error:
            upstream.read_upstream(tmp_path / "c.pth", 64)
        return str(error.value)

    released(MAMBA, tmp_path / "c.safetensors")
    state = load_file(tmp_path / "c.safetensors")

    def without(word: str) -> dict[str, Tensor]:
        return {key: value for key, value in state.items() if word not in key}

    assert "has no encoder.model.patch_embed.proj.weight" in refused({"a": torch.zeros(1)})
    assert "1 unexpected: decoder.odd" in refused(state | {"decoder.odd": torch.zeros(1)})
    assert "1 missing: context.encoder.layers.1.mixer.D" in refused(without("layers.1.mixer.D"))
    assert "has no decoder.layers.0.mixer.A_log" in refused(without("A_log"))
    assert "nor the six tensors of the head" in refused(without("decoder."))
    assert "is not a state dict of tensors" in refused({1: torch.zeros(1)})
    stem, scale = "encoder.model.patch_embed.proj.weight", "encoder.model.layers_0.blocks.0.attn.logit_scale"
    assert "has no encoder.model.patch_embed.proj.weight" in refused(state | {stem: torch.zeros(())})
    assert "a tensor of it has another form" in refused(state | {scale: torch.zeros(())})
    ending = next(key for key in state if key.endswith("mixer.D"))
    for wrong in (torch.full_like(state[ending], torch.nan), state[ending].int()):
        assert "1 without finite fractions: context.encoder.layers.0.mixer.D" in refused(state | {ending: wrong})
    with pytest.raises(CheckpointError, match="no file"):
        upstream.read_upstream(tmp_path / "none.pth")
