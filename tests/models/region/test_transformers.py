"""Hiera, a ViT and a DINOv3 ViT of timm as region encoders, without weights from anywhere."""

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from parts import MeanContext
from safetensors.torch import save_file
from torch import Tensor, nn

from xt import plugins
from xt.errors import ModelError
from xt.models.decoders.base import DecoderInputs
from xt.models.region import hiera, timm_features
from xt.models.region.simple_pyramid import SimplePyramid
from xt.models.region.timm_features import TimmFeatures
from xt.models.xt import XT

HIERA = {"stages": (1, 1, 2, 1), "num_heads": 1, "embed_dim": 8}
VIT = {"depth": 4, "num_heads": 2, "embed_dim": 32}
MODELS = {
    "hiera_base_224": HIERA,
    "hiera_base_plus_224": HIERA | {"num_heads": 2, "embed_dim": 16},
    "vit_tiny_patch16_224": VIT,
    "vit_small_patch16_dinov3": VIT,
}
HIERARCHICAL = ["hiera_base_224", "hiera_base_plus_224"]


def make(name: str, size: int = 64, in_chans: int = 2, **options: object) -> TimmFeatures:
    torch.manual_seed(0)
    return TimmFeatures(in_chans, name, size, model_args=MODELS[name], **options)


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("hiera_base_224", (96, 192, 384, 768)),
        ("hiera_base_plus_224", (112, 224, 448, 896)),
        ("vit_small_patch16_224", (384,)),
        ("vit_small_patch16_dinov3", (384,)),
    ],
)
def test_sizes_are_those_of_the_published_models(name: str, channels: tuple[int, ...]):
    with torch.device("meta"):
        encoder = TimmFeatures(2, name, 512)
    assert encoder.channels == channels
    assert encoder.strides == ((4, 8, 16, 32) if len(channels) > 1 else (16,))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [64, 96])
def test_maps_are_those_of_timm_and_every_parameter_learns(name: str, size: int):
    encoder = make(name, size).train()
    stock = timm.create_model(name, in_chans=2, img_size=size, num_classes=0, **MODELS[name]).train()
    missing = stock.load_state_dict(
        {key.removeprefix("model.model."): value for key, value in encoder.state_dict().items()}, strict=False
    )
    assert all("norm" in key for key in missing.missing_keys)
    assert not missing.unexpected_keys
    regions = torch.randn(3, 2, size, size)
    maps = encoder(regions)
    want = stock.forward_intermediates(regions, intermediates_only=True)
    want = want if name in HIERARCHICAL else want[-1:]
    for got, expected, channels, stride in zip(maps, want, encoder.channels, encoder.strides, strict=True):
        assert got.shape == (3, channels, size // stride, size // stride)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    # No region sees another.
    torch.testing.assert_close(encoder(regions[1:2])[-1], maps[-1][1:2], rtol=1e-4, atol=1e-5)
    sum((each * torch.randn(each.shape)).sum() for each in maps).backward()
    for key, p in encoder.named_parameters():
        assert p.grad is not None, key
        assert p.grad.isfinite().all(), key
        assert p.grad.any(), key


@pytest.mark.parametrize("name", MODELS)
def test_weight_decay_leaves_alone_what_timm_does(name: str):
    encoder, stock = make(name), timm.create_model(name, **MODELS[name])
    wanted = {f"model.model.{each}" for each in stock.no_weight_decay()}
    assert encoder.no_weight_decay() == wanted & {key for key, _ in encoder.named_parameters()} != set()


@pytest.mark.parametrize("name", MODELS)
def test_bf16(name: str):
    encoder = make(name).bfloat16()
    assert all(
        each.dtype == torch.bfloat16 and each.isfinite().all() for each in encoder(torch.randn(1, 2, 64, 64).bfloat16())
    )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("decoder", ["UPerNet", "UNet"])
def test_a_model_trains_a_step_with_either_decoder(name: str, decoder: str):
    encoder = make(name, pyramid=None if name in HIERARCHICAL or decoder == "UNet" else (4, 8, 16))
    options = {"channels": 8} if decoder == "UPerNet" else {"filters": (8, 8, 8, 8)}
    inputs = DecoderInputs(2, encoder.channels, encoder.strides, 16)
    built = plugins.build("decoders", {"class_path": decoder, "init_args": options}, inputs=inputs)
    model = XT(encoder, MeanContext(16), built, {"a": 1}, 2, 64)
    x = torch.randn(1, 2, 70, 130, generator=torch.Generator().manual_seed(1))
    target = (x[:, :1] > 0).float()
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    before = F.binary_cross_entropy_with_logits(model(x)["a"], target)
    before.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        assert F.binary_cross_entropy_with_logits(model(x)["a"], target) < before


def saved(name: str, folder: Path) -> tuple[nn.Module, str]:
    """A model of timm at its own size, and a file of its weights."""
    torch.manual_seed(5)
    source = timm.create_model(name, **MODELS[name])
    path = folder / "weights.safetensors"
    save_file(source.state_dict(), path)
    return source, str(path)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [224, 96])
def test_weights_fit_regions_of_another_size(name: str, size: int, tmp_path: Path):
    source, path = saved(name, tmp_path)
    encoder = make(name, size, 3, weights=path)
    state = source.state_dict()
    for key, value in encoder.state_dict().items():
        original = state[key.removeprefix("model.model.")]
        if original.shape == value.shape:
            assert torch.equal(value, original), key
        else:
            assert key == "model.model.pos_embed"
            assert size == 96


def test_positions_of_hiera_are_resampled_over_the_region(tmp_path: Path):
    source, path = saved("hiera_base_224", tmp_path)
    table = source.pos_embed.detach().reshape(1, 56, 56, -1).permute(0, 3, 1, 2)
    want = F.interpolate(table, (24, 24), mode="bicubic", antialias=True)
    got = make("hiera_base_224", 96, 3, weights=path).model.model.pos_embed
    torch.testing.assert_close(got, want.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-6)


def test_weights_of_hiera_from_the_hub_fit_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source, path = saved("hiera_base_224", tmp_path)
    real, asked = timm.create_model, []

    def hub(name: str, **options: object) -> nn.Module:
        if options["pretrained"] and not options.get("pretrained_cfg_overlay"):
            asked.append(options)
            return source
        return real(name, **options)

    monkeypatch.setattr(timm_features.timm, "create_model", hub)
    got = make("hiera_base_224", 96, 2, pretrained=True).state_dict()
    assert asked == [{"pretrained": True, **HIERA}]
    monkeypatch.undo()
    want = make("hiera_base_224", 96, 2, weights=path).state_dict()
    assert all(torch.equal(got[key], want[key]) for key in want)


@pytest.mark.parametrize("name", MODELS)
def test_weights_fit_other_bands_and_another_size_at_once(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = saved(name, tmp_path)[1]
    own = make(name, 96, 3, weights=path).state_dict()
    for key, value in make(name, 96, 2, weights=path).state_dict().items():
        if own[key].shape == value.shape:
            assert torch.equal(value, own[key]), key
        else:
            assert key == "model.model.patch_embed.proj.weight"
            torch.testing.assert_close(value, own[key][:, :2] * 3 / 2, rtol=1e-4, atol=1e-6)
    # timm is not asked to adapt what is adapted.
    assert "patch_embed" not in caplog.text


def test_tables_that_are_resampled_elsewhere_are_left_alone():
    for shape in ((1, 9, 7, 7), (1, 197, 8)):
        table = torch.randn(shape)
        assert hiera._resampled(table, 96) is table


def doubled(up: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """Each cell becomes four of its own."""
    parts = torch.einsum("nchw,cdij->ndhiwj", x, up.weight)
    return parts.flatten(4).flatten(2, 3) + up.bias[:, None, None]


def literal_pyramid(pyramid: SimplePyramid, x: Tensor, strides: tuple[int, ...], stride: int) -> list[Tensor]:
    found, grown = [], iter(pyramid.grow)
    for wanted in strides:
        if wanted < stride:
            first, *others = [each for each in next(grown) if isinstance(each, nn.ConvTranspose2d)]
            y = doubled(first, x)
            for up in others:
                centred = y - y.mean(1, keepdim=True)
                normed = centred / torch.sqrt(centred.square().mean(1, keepdim=True) + 1e-6)
                y = doubled(up, normed * 0.5 * (1 + torch.erf(normed / 2**0.5)))
            found.append(y)
        else:
            n = wanted // stride
            found.append(x.unfold(2, n, n).unfold(3, n, n).amax((-1, -2)))
    return found


@pytest.mark.parametrize(("stride", "strides"), [(16, (4, 8, 16)), (16, (2, 16, 32, 64)), (14, (7, 28)), (16, (64,))])
def test_simple_pyramid_follows_its_layers(stride: int, strides: tuple[int, ...]):
    torch.manual_seed(0)
    pyramid = SimplePyramid(16, stride, strides).double()
    x = torch.randn(2, 16, 8, 12, dtype=torch.float64)
    maps = pyramid(x)
    for got, want, channels, each in zip(
        maps, literal_pyramid(pyramid, x, strides, stride), pyramid.channels, strides, strict=True
    ):
        assert got.shape == (2, channels, 8 * stride // each, 12 * stride // each)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_a_pyramid_is_part_of_the_description():
    encoder = make("vit_tiny_patch16_224", pyramid=(4, 8, 16), norm=True)
    assert encoder.strides == (4, 8, 16)
    assert encoder.channels == (8, 16, 32)
    again = plugins.build("region_encoders", encoder.spec()).eval()
    again.load_state_dict(encoder.state_dict())
    x = torch.randn(1, 2, 64, 64)
    for a, b in zip(again(x), encoder.eval()(x), strict=True):
        assert torch.equal(a, b)
        assert a.mean(1).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pyramid": (4, 6)}, r"pyramid \[4, 6\]: give ascending strides, each 16"),
        ({"pyramid": ()}, r"pyramid \[\]"),
        ({"pyramid": (8, 4)}, r"pyramid \[8, 4\]"),
        ({"pyramid": (16, 48)}, r"pyramid \[16, 48\]"),
        ({"pyramid": (0, 4)}, r"pyramid \[0, 4\]"),
        ({"pyramid": (16, 128)}, "region_size 64 does not divide by 128"),
    ],
)
def test_what_cannot_work_is_refused_with_the_numbers(options: dict, message: str):
    with pytest.raises(ModelError, match=message):
        make("vit_tiny_patch16_224", **options)
    with pytest.raises(ModelError, match="24 channels cannot be halved so often"):
        SimplePyramid(24, 16, (1, 16))
