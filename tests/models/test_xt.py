from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from parts import MeanContext, decoder_inputs, small_encoder, small_model
from torch import Tensor

from xt.errors import ModelError
from xt.geometry.grid import TokenLayout
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


@settings(max_examples=15, deadline=None)
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
    model.streaming = False
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
    whole = model(x, valid)  # with gradients, the whole image is decoded at once
    want = sums(whole, {"y": y})
    want.sum().backward()
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-3)
    assert all(
        (p.grad - grads[n]).norm() <= 1e-5 * p.grad.norm() + 1e-6 for n, p in model.named_parameters() if n in grads
    )
    with torch.no_grad():
        tiles = model(x, valid)
        plain = UNet.prepare
        GlobalUNet.prepare, kept = plain, GlobalUNet.prepare
        other = model(x, valid)
        GlobalUNet.prepare = kept
    torch.testing.assert_close(tiles["a"], whole["a"].detach(), rtol=1e-4, atol=1e-5)
    assert (other["a"] - tiles["a"]).abs().max() > 1e-3
