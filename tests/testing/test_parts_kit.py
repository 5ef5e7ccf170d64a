"""The kits of region encoders and decoders let what is sound pass, and name what is planted."""

import planted_decoders
import planted_regions
import pytest
import torch

from xt import plugins
from xt.models.decoders.base import DecoderInputs
from xt.testing import DecoderFault, EncoderFault, Report, check_decoder, check_region_encoder
from xt.testing.checks.shared import _some

SMALL = {"dims": (8, 8, 8, 8), "depths": (1, 1, 1, 1)}
VIT = {"depth": 4, "num_heads": 2, "embed_dim": 32}
HIERA = {"stages": (1, 1, 2, 1), "num_heads": 1, "embed_dim": 8}
SWIN = {"embed_dim": 8, "depths": (2,), "num_heads": (1,), "window_size": 4}
REGION_ENCODERS = {
    "ConvNeXt": ("TimmFeatures", {"name": "convnext_atto", "region_size": 32, "model_args": SMALL}),
    "ConvNeXt, normed": (
        "TimmFeatures",
        {"name": "convnext_atto", "region_size": 32, "model_args": SMALL, "norm": True},
    ),
    "ViT, pyramid": (
        "TimmFeatures",
        {"name": "vit_tiny_patch16_224", "region_size": 32, "model_args": VIT, "pyramid": [8, 16]},
    ),
    "Hiera": ("TimmFeatures", {"name": "hiera_base_224", "region_size": 64, "model_args": HIERA}),
    "SwinV2": ("TimmFeatures", {"name": "swinv2_tiny_window8_256", "region_size": 32, "model_args": SWIN}),
    "batch norm": ("TimmFeatures", {"name": "test_resnet", "region_size": 32}),
    "Samba": ("Samba", {"region_size": 16, "dims": (4, 8), "depths": (1, 1), "d_state": 2}),
}
TWO, FOUR = DecoderInputs(2, (8, 8), (14, 28), 8), DecoderInputs(3, (8, 8, 8, 8), (4, 8, 16, 32), 8)
DECODERS = {
    "UNet": ("UNet", {"filters": (8, 8, 8, 8)}),
    "UNet, every pixel": ("UNet", {"filters": (4,) * 6, "out_stride": 1, "inputs": FOUR}),
    "UNet, coarse": ("UNet", {"filters": (8, 8), "out_stride": 8}),
    "UNet, strides of 7": ("UNet", {"filters": (8, 8, 8), "out_stride": 7, "inputs": TWO}),
    "UPerNet": ("UPerNet", {"channels": 8}),
    "UPerNet, four maps": ("UPerNet", {"channels": 4, "pools": (1, 2), "inputs": FOUR}),
    "ClassToken": ("ClassToken", {}),
    "Pooled": ("Pooled", {"expand": 2}),
}
FAULTS = [
    *((check_region_encoder, *each) for each in planted_regions.FAULTS),
    *((check_decoder, *each) for each in planted_decoders.FAULTS),
]
KINDS = {check_region_encoder: "region_encoders", check_decoder: "decoders"}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plugins, "_registered", {kind: {} for kind in plugins.BUILTINS})


def made(report: Report) -> set[str]:
    return {each.check for each in report.findings if each.applies}


def test_every_built_in_part_is_here():
    assert {name for name, _ in REGION_ENCODERS.values()} == set(plugins.BUILTINS["region_encoders"])
    assert {name for name, _ in DECODERS.values()} == set(plugins.BUILTINS["decoders"])


@pytest.mark.parametrize("case", REGION_ENCODERS)
def test_built_in_region_encoders_keep_their_contract(case: str):
    name, options = REGION_ENCODERS[case]
    before = torch.random.get_rng_state()
    report = check_region_encoder(plugins.resolve("region_encoders", name), **options)
    assert made(report) == {"shape", "repeats", "batch", "decay", "gradients", "zeros", "bf16", "saving"}
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("case", DECODERS)
def test_built_in_decoders_keep_their_contract(case: str):
    name, options = DECODERS[case]
    found = made(check_decoder(plugins.resolve("decoders", name), **options))
    assert {"shape", "batch", "gradients", "zeros", "bf16", "saving"} <= found
    assert ("tiles" in found) == ("halo" in found) == (name in ("UNet", "UPerNet"))
    assert ("window" in found) == (name == "UNet")
    assert ("class_token" in found) == (name in ("ClassToken", "Pooled"))


@pytest.mark.parametrize("cls", [planted_regions.SoundRegions, planted_regions.OneMap])
def test_sound_region_encoders_of_ones_own_pass(cls: type):
    plugins.register("region_encoders")(cls)
    report = check_region_encoder(cls, in_chans=3, without=["decay"])
    assert str(report).startswith(f"{cls.__name__}(in_chans=3): 7 checks passed, 1 not made")


@pytest.mark.parametrize("cls", [planted_decoders.SoundMap, planted_decoders.SoundGlobal, planted_decoders.SoundVector])
def test_sound_decoders_of_ones_own_pass(cls: type):
    plugins.register("decoders")(cls)
    assert str(check_decoder(cls)).startswith(f"{cls.__name__}(inputs=DecoderInputs(")


@pytest.mark.parametrize(("check", "cls", "options", "words"), FAULTS, ids=[each[1].__name__ for each in FAULTS])
def test_planted_faults_are_named(check: object, cls: type, options: dict, words: str):
    plugins.register(KINDS[check])(cls)
    with pytest.raises((EncoderFault, DecoderFault), match=rf"{cls.__name__}.*{words}") as caught:
        check(cls, **options)
    assert isinstance(caught.value, DecoderFault) == (check is check_decoder)
    assert "\n" not in str(caught.value)


def test_of_many_names_five_are_told():
    assert _some([*"abcde"]) == "a, b, c, d, e"
    assert _some([*"abcdefg"]) == "a, b, c, d, e and 2 more"


def test_names_that_are_not_known_are_told():
    with pytest.raises(DecoderFault, match=r"no check is named 'hallo'; did you mean 'halo'"):
        check_decoder(planted_decoders.SoundMap, without=["hallo"])
    with pytest.raises(EncoderFault, match=r"cannot be saved by name: .*or declare an entry point xt\.region_encoders"):
        check_region_encoder(planted_regions.SoundRegions)
