import copy
from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from parts import MeanContext, decoder_inputs, small_encoder, small_model
from torch import Tensor

from xt.errors import GeometryError, ModelError
from xt.geometry.grid import TokenLayout, Window
from xt.models.context.base import ContextEncoder
from xt.models.context.identity import Identity
from xt.models.context.mamba import Mamba
from xt.models.context_block import sincos_positions
from xt.models.decoders.pooled import ClassToken, Pooled
from xt.models.decoders.unet import UNet
from xt.models.xt import XT


def sample(height: int = 150, width: int = 201) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 2, height, width, generator=generator)
    valid = torch.ones(2, 1, height, width, dtype=torch.bool)
    valid[0, :, :64, :64] = False
    return x * valid, valid


def sums(maps: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    return torch.stack([(maps["a"] * targets["y"]).sum(), maps["b"].square().sum()])


@settings(max_examples=15)
@given(st.integers(1, 200), st.integers(1, 200))
def test_any_height_and_width_gives_maps_of_that_size(height: int, width: int):
    model = small_model().eval()
    x = torch.randn(1, 2, height, width)
    with torch.no_grad():
        maps = model(x)
    assert maps["a"].shape == (1, 1, height, width)
    assert maps["b"].shape == (1, 2, height, width)
    torch.testing.assert_close(maps["a"], model(x)["a"].detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("out_stride", [2, 4])
def test_statistics_over_tiles_equal_plain_autograd(out_stride: int):
    model = small_model(out_stride=out_stride)
    x, valid = sample()
    # Of one sign: a sum that nearly cancels would amplify the rounding of another order of additions.
    y = torch.rand(2, 1, 150, 201)
    got = model.statistics(x, {"y": y}, sums, valid)
    (got[0] ** 2 + got[1]).backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.streaming, model.decode_size = False, 1024
    want = sums(model(x, valid), {"y": y})
    (want[0] ** 2 + want[1]).backward()
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-3)
    names = [name for name, p in model.named_parameters() if p.grad is not None]
    assert set(names) == set(grads)
    for name, p in model.named_parameters():
        if p.grad is not None and p.grad.norm() > 1e-6:
            assert (p.grad - grads[name]).norm() / p.grad.norm() <= 1e-5, name


def test_region_batch_and_order_of_images_change_nothing():
    x, valid = sample()
    with torch.no_grad():
        want = small_model(region_batch=3).eval()(x, valid)
        other = small_model(region_batch=100).eval()(x, valid)
        flipped = small_model(region_batch=2).eval()(x.flip(0), valid.flip(0))
    for name in want:
        torch.testing.assert_close(other[name], want[name], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(flipped[name].flip(0), want[name], atol=1e-5, rtol=1e-5)


def test_first_region_reaches_the_last_only_through_context():
    model = small_model().eval()
    x = torch.randn(1, 2, 512, 512)
    changed = x.clone()
    changed[..., :32, :32] += 1
    with torch.no_grad():
        far = (model(x)["a"] - model(changed)["a"])[..., -32:, -32:].abs().max()
        torch.nn.init.zeros_(model.context.output_proj.weight)
        none = (model(x)["a"] - model(changed)["a"])[..., -32:, -32:].abs().max()
    assert far > 0
    assert none == 0


def test_image_without_valid_pixels_runs():
    model = small_model().eval()
    maps = model(torch.zeros(1, 2, 70, 70), torch.zeros(1, 1, 70, 70, dtype=torch.bool))
    assert maps["a"].isfinite().all()


@pytest.mark.parametrize("decoder", [ClassToken, Pooled])
def test_pooled_decoders_give_one_vector(decoder: type):
    encoder = small_encoder()
    model = XT(encoder, MeanContext(16), decoder(decoder_inputs(encoder)), {"label": 5}).eval()
    x, valid = sample()
    assert model(x, valid)["label"].shape == (2, 5)
    alone = model(x[1:], valid[1:])["label"]
    torch.testing.assert_close(model(x, valid)["label"][1:], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("context", "name"), [(Mamba(16, depth=1), "Mamba"), (Identity(16), "Identity")])
def test_class_token_that_sees_nothing_is_refused(context: ContextEncoder, name: str):
    encoder = small_encoder()
    layout = TokenLayout(2, 2, 2, num_extra=1)
    x = torch.randn(1, 17, 16)
    with torch.no_grad():
        assert context(x, layout)[:, -1].equal(context(x * torch.tensor([*[-1.0] * 16, 1.0])[:, None], layout)[:, -1])
    with pytest.raises(ModelError, match=f"context {name}: the class token.* take decoder Pooled"):
        XT(encoder, context, ClassToken(decoder_inputs(encoder)), {"label": 5})
    XT(encoder, context, Pooled(decoder_inputs(encoder)), {"label": 5})
    XT(encoder, Mamba(16, depth=2), ClassToken(decoder_inputs(encoder)), {"label": 5})


def test_positions_follow_the_formula():
    layout = TokenLayout(2, 3, 2)
    got = sincos_positions(layout, 16)
    assert got.shape == (24, 16)
    row, col, k = 3, 5, 2
    token = row * 6 + col
    omega = 10000 ** (-k / 4)
    assert got[token, k] == pytest.approx(float(torch.tensor(col * omega).sin()), abs=1e-6)
    assert got[token, 4 + k] == pytest.approx(float(torch.tensor(col * omega).cos()), abs=1e-6)
    assert got[token, 8 + k] == pytest.approx(float(torch.tensor(row * omega).sin()), abs=1e-6)
    assert got[token, 12 + k] == pytest.approx(float(torch.tensor(row * omega).cos()), abs=1e-6)


def test_wrong_channels_are_said_with_both_numbers():
    with pytest.raises(ModelError, match=r"\(B, 2, H, W\), got \(1, 3, 8, 8\)"):
        small_model()(torch.zeros(1, 3, 8, 8))


def reference(model: XT, x: Tensor, valid: Tensor) -> dict[str, Tensor]:
    """The model in plain autograd: regions one by one, context image by image, everything decoded at once."""
    size, (height, width) = model.region_size, x.shape[-2:]
    rows, cols = -(-height // size), -(-width // size)
    padded, flags = (x.new_zeros(2, n, rows * size, cols * size) for n in (2, 1))
    padded[..., :height, :width], flags[..., :height, :width] = x, valid
    pyramids = []
    for i in range(len(x)):
        regions = padded[i].unfold(1, size, size).unfold(2, size, size).permute(1, 2, 0, 3, 4).flatten(0, 1)
        exists = [bool(each.any()) for each in flags[i, 0].unfold(0, size, size).unfold(1, size, size).flatten(0, 1)]
        encoded = [model.region_encoder(each[None]) for each in regions]
        maps = []
        for level in range(len(model.region_encoder.strides)):
            parts = [each[level] * there for each, there in zip(encoded, exists, strict=True)]
            maps.append(torch.cat([torch.cat(parts[k * cols : (k + 1) * cols], 3) for k in range(rows)], 2))
        side = maps[-1].shape[-1] // cols
        there = torch.tensor(exists).view(rows, cols).repeat_interleave(side, 0).repeat_interleave(side, 1)
        said = torch.zeros_like(maps[-1])
        said[..., there] = model.context(maps[-1], TokenLayout(rows, cols, side, tuple(exists))).transpose(1, 2)
        pyramids.append([*maps[:-1], maps[-1] + said])
    features = model.decoder(padded, [torch.cat(each) for each in zip(*pyramids, strict=True)])
    size = padded.shape[-2:]
    return {
        name: F.interpolate(head(features), size, mode="bilinear", align_corners=False)[..., :height, :width]
        for name, head in model.heads.items()
    }


def test_maps_and_gradients_are_those_of_plain_autograd():
    model = small_model(decode_size=32)
    x, valid = sample()
    weight = torch.rand(150, 201)
    found = []
    for run, dtype in ((model, torch.float32), (copy.deepcopy(model).double(), torch.float64)):
        given = x.to(dtype, copy=True).requires_grad_()
        maps = model(given, valid) if run is model else reference(run, given, valid)
        total = sum((weight * each.square()).sum() for each in maps.values())
        found.append([*maps.values(), *torch.autograd.grad(total, [given, *run.parameters()], allow_unused=True)])
    names = ["a", "b", "image", *(name for name, _ in model.named_parameters())]
    for name, got, want in zip(names, *found, strict=True):
        if want is None:
            assert got is None, name
        else:
            assert (got - want).norm() <= 5e-6 * want.norm() + 1e-4, name
    assert sum(want is not None for want in found[1]) > len(names) / 2


def test_forward_is_the_composition_of_the_stages_with_and_without_gradients():
    model = small_model()
    x, valid = sample()
    maps = model(x, valid)
    assert maps["a"].requires_grad
    pyramid = model.mix(model.encode(x, valid))
    assert pyramid.exists == ((False, *(True,) * 11), (True,) * 12)
    with torch.inference_mode():
        bare = model(x, valid)
        staged = model.decode(model.mix(model.encode(x, valid)))
    for name, want in maps.items():
        assert torch.equal(model.decode(pyramid)[name], want)
        assert torch.equal(bare[name], want)
        assert torch.equal(staged[name], want)
    targets = {"y": torch.rand(2, 1, 150, 201)}
    assert torch.equal(model.statistics(x, targets, sums, valid), model.reduce(pyramid, targets, sums))


def test_stages_hand_on_what_they_were_given():
    model = small_model()
    x, valid = sample()
    pyramid = model.encode(x, valid, origin=(320, 64))
    assert pyramid.image is x
    assert pyramid.origin == (320, 64)
    assert pyramid.strides == (4, 8, 16, 32)
    mixed = model.mix(pyramid)
    assert all(a is b for a, b in zip(mixed.maps[:-1], pyramid.maps[:-1], strict=True))
    assert not torch.equal(mixed.maps[-1], pyramid.maps[-1])
    # Positions are those in the scene, so that the same pixels elsewhere are mixed otherwise.
    assert not torch.allclose(mixed.maps[-1], model.mix(model.encode(x, valid)).maps[-1], atol=1e-3)
    assert torch.equal(mixed.maps[-1], model.mix_features(pyramid.maps[-1], pyramid.grid, pyramid.exists))
    with pytest.raises(GeometryError, match=r"origin \(320, 65\) does not divide by stride 32"):
        model.encode(x, valid, origin=(320, 65))


def test_stages_of_a_pooled_model():
    encoder = small_encoder()
    model = XT(encoder, MeanContext(16), ClassToken(decoder_inputs(encoder)), {"label": 5}).eval()
    x, valid = sample()
    pyramid = model.encode(x, valid)
    assert [each.shape[1] for each in pyramid.maps] == [encoder.channels[-1]]  # no finer one is held
    mixed = model.mix(pyramid)
    assert [tuple(each.shape) for each in mixed.tokens] == [(1, 45, 16), (1, 49, 16)]
    assert [tuple(each.shape) for each in model.mix(model.encode(x)).tokens] == [(2, 49, 16)]
    assert torch.equal(model.decode(mixed)["label"], model(x, valid)["label"])
    with pytest.raises(ModelError, match="tokens of a mixed pyramid"):
        model.decode(pyramid)
    with pytest.raises(ModelError, match="no window"):
        model.decode(mixed, Window(0, 0, 8, 8))
    with pytest.raises(ModelError, match="decoding tile by tile needs a dense decoder"):
        model.reduce(mixed, {}, sums)
    with pytest.raises(ModelError, match="mix_features needs a dense decoder"):
        model.mix_features(pyramid.maps[-1], pyramid.grid)
    with pytest.raises(ModelError, match="mix_segment needs a dense decoder"):
        model.mix_segment(pyramid.maps[-1], pyramid.grid.layout(32))
    with pytest.raises(ModelError, match="an image without a valid pixel has no class"):
        model(x, valid & torch.tensor([True, False])[:, None, None, None])


class GlobalUNet(UNet):
    """Adds to each map the mean of the whole image's, as pyramid pooling does."""

    def prepare(self, pyramid: Sequence[Tensor]) -> Sequence[Tensor]:
        return [each + each.mean((-2, -1), keepdim=True) for each in pyramid]


def test_what_is_global_in_a_decoder_is_done_before_tiling():
    torch.manual_seed(0)
    encoder = small_encoder()
    model = XT(
        encoder, MeanContext(16), GlobalUNet(decoder_inputs(encoder), (8, 12, 16, 20), 2), {"a": 1, "b": 2}, 3, 64
    )
    x, valid = sample()
    y = torch.rand(2, 1, 150, 201)
    got = model.statistics(x, {"y": y}, sums, valid)
    got.sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.streaming, model.decode_size = False, 1024
    whole = model(x, valid)
    want = sums(whole, {"y": y})
    want.sum().backward()
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-3)
    assert all(
        (p.grad - grads[n]).norm() <= 1e-5 * p.grad.norm() + 1e-6 for n, p in model.named_parameters() if n in grads
    )
    model.streaming, model.decode_size = True, 64
    with torch.no_grad():
        tiles = model(x, valid)
        plain = UNet.prepare
        GlobalUNet.prepare, kept = plain, GlobalUNet.prepare
        other = model(x, valid)
        GlobalUNet.prepare = kept
    torch.testing.assert_close(tiles["a"], whole["a"].detach(), rtol=1e-4, atol=1e-5)
    assert (other["a"] - tiles["a"]).abs().max() > 1e-3


def test_a_pyramid_is_prepared_once_for_all_windows(monkeypatch: pytest.MonkeyPatch):
    calls: list[int] = []
    monkeypatch.setattr(UNet, "prepare", lambda self, maps: calls.append(1) or [each + 1 for each in maps])
    model = small_model()
    x, valid = sample()
    with torch.no_grad():
        whole = model(x, valid)
        assert len(calls) == 1
        pyramid = model.prepare(model.mix(model.encode(x, valid)))
        assert len(calls) == 2
        for window in (Window(0, 0, 64, 64), Window(64, 128, 86, 73)):
            part = model.decode(pyramid, window)
            assert torch.equal(part["a"], whole["a"][(..., *window.slices)])
        model.reduce(model.prepare(pyramid), {"y": torch.ones(2, 1, 150, 201)}, sums)
    assert len(calls) == 2
    with pytest.raises(ModelError, match="mix comes before prepare"):
        model.mix(pyramid)


@pytest.mark.parametrize("shape", [(1, 1, 150, 201), (2, 1, 150, 200), (2, 2, 150, 201), (2, 201, 150)])
def test_valid_of_another_size_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ModelError, match=r"valid is \(.*; with these images it must be \(2, 1, 150, 201\)"):
        small_model()(sample()[0], torch.ones(shape, dtype=torch.bool))
