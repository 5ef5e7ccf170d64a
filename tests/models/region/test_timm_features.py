import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from xt.errors import CheckpointError, ModelError, XTError
from xt.models.region import timm_features
from xt.models.region.timm_features import PRESETS, TimmFeatures

SMALL = {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1)}


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *((preset, 512) for preset in PRESETS),
        ("swinv2_t", 128),
        ("resnet18", 64),
        ("vit_tiny_patch16_224", 256),
        ("hiera_tiny_224", 256),
        ("convnext_atto", 96),
    ],
)
@pytest.mark.parametrize("in_chans", [2, 13])
def test_declared_channels_and_strides_are_true(name: str, size: int, in_chans: int):
    with torch.device("meta"):
        encoder = TimmFeatures(in_chans, name, size)
        maps = encoder(torch.empty(1, in_chans, size, size))
    assert list(encoder.strides) == sorted(set(encoder.strides))
    for each, channels, stride in zip(maps, encoder.channels, encoder.strides, strict=True):
        assert each.shape == (1, channels, size // stride, size // stride)


def test_large_preset_has_windows_stretched_from_192_to_256():
    with torch.device("meta"):
        encoder = TimmFeatures(2, "swinv2_l", 512)
    assert encoder.model.layers_0.blocks[0].attn.window_size == (16, 16)
    assert encoder.model.layers_0.blocks[0].attn.pretrained_window_size == (12, 12)


def test_regions_do_not_influence_each_other_in_training():
    encoder = TimmFeatures(2, "resnet18", 64)
    assert not any(module.training for module in encoder.modules() if isinstance(module, torch.nn.BatchNorm2d))
    encoder.train()
    x = torch.randn(4, 2, 64, 64)
    torch.testing.assert_close(encoder(x)[-1][:1], encoder(x[:1])[-1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "swinv2_tny_window16_256"}, "did you mean 'swinv2_tiny_window16_256'"),
        ({"name": "convnext_atto", "model_args": {"drop_path": 0.1}}, "did you mean 'drop_path_rate'"),
        ({"name": "convnext_atto", "region_size": 100}, "does not divide by 32.*take 96"),
        ({"name": "vit_tiny_patch16_224", "region_size": 40, "pyramid": [4, 8]}, "does not divide by 16"),
        ({"name": "convnext_atto", "weights": "no/such.safetensors"}, "no file no/such"),
        ({"name": "convnext_atto", "weights": "x", "pretrained": True}, "not both"),
    ],
)
def test_errors_say_what_to_do(arguments: dict, message: str):
    with pytest.raises(XTError, match=message):
        TimmFeatures(3, **arguments)


def test_hub_out_of_reach_names_both_other_ways(monkeypatch: pytest.MonkeyPatch):
    real = timm_features.timm.create_model

    def offline(name: str, **options: object) -> torch.nn.Module:
        if options["pretrained"]:
            raise OSError("cannot reach the hub")
        return real(name, **options)

    monkeypatch.setattr(timm_features.timm, "create_model", offline)
    with pytest.raises(ModelError, match=r"weights: FILE .* pretrained: false"):
        TimmFeatures(3, "convnext_atto", pretrained=True)


def test_a_saved_model_asks_the_hub_for_nothing(monkeypatch: pytest.MonkeyPatch):
    real = timm_features.timm.create_model
    monkeypatch.setattr(
        timm_features.timm, "create_model", lambda name, **options: real(name, **options | {"pretrained": False})
    )
    assert TimmFeatures(3, "convnext_atto", 64, pretrained=True).spec()["init_args"]["pretrained"] is False


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_local_weights_are_loaded(tmp_path: Path, suffix: str):
    torch.manual_seed(1)
    source = timm_features.timm.create_model("convnext_atto", in_chans=3, **SMALL)
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(source.state_dict(), path)
    encoder = TimmFeatures(3, "convnext_atto", 64, weights=str(path), model_args=SMALL)
    assert torch.equal(encoder.model.stem_0.weight, source.stem[0].weight)
    assert encoder.spec()["init_args"]["weights"] is None


def test_pickle_with_more_than_tensors_is_refused(tmp_path: Path):
    class Bad:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "bad.pth"
    path.write_bytes(pickle.dumps({"x": Bad()}))
    with pytest.raises(CheckpointError, match=r"bad\.pth"):
        TimmFeatures(3, "convnext_atto", weights=str(path))
    torch.save({"x": Bad()}, path)
    with pytest.raises(CheckpointError, match=r"bad\.pth"):
        TimmFeatures(3, "convnext_atto", weights=str(path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["convnext_atto", "swinv2_t"])
def test_no_data_has_no_gradient_beyond_that_of_data(name: str):
    def gradient(image: torch.Tensor) -> float:
        torch.manual_seed(0)
        encoder = TimmFeatures(2, name, 64, norm=True)
        torch.manual_seed(1)
        loss = sum((each * torch.randn(each.shape)).mean() for each in encoder(image))
        return float(torch.stack([g.norm() for g in torch.autograd.grad(loss, list(encoder.parameters()))]).norm())

    assert gradient(torch.zeros(1, 2, 64, 64)) < 20 * gradient(torch.randn(1, 2, 64, 64))


def test_brightness_is_seen_and_not_its_sign_alone():
    torch.manual_seed(0)
    encoder = TimmFeatures(2, "convnext_atto", 64, norm=True).eval()
    dim, dark, darker = (encoder(torch.full((1, 2, 64, 64), level))[-1] for level in (-0.3, -1.0, -2.0))
    assert (dim - dark).abs().mean() > 0.05
    assert (dark - darker).abs().mean() > 0.05


def test_norm_gives_maps_of_unit_scale():
    torch.manual_seed(0)
    for each in TimmFeatures(2, "convnext_atto", 64, norm=True)(torch.randn(2, 2, 64, 64)):
        assert each.mean(1).abs().max() < 1e-4
        torch.testing.assert_close(each.std(1, unbiased=False), torch.ones_like(each[:, 0]), atol=0.05, rtol=0)
