"""SwinV2: it starts with norms of 0, where attention gets no gradient; and it is faster than timm's, with its results."""

import re

import pytest
import timm
import torch
from torch import Tensor, nn

from xt.models.region import swin_v2
from xt.models.region.faster import accelerate
from xt.models.region.timm_features import TimmFeatures

SIZES = {"embed_dim": 16, "depths": (2, 1, 2, 1), "num_heads": (1, 2, 2, 4), "window_size": 8}


def make(norms: bool) -> TimmFeatures:
    torch.manual_seed(0)
    encoder = TimmFeatures(2, "swinv2_t", 128, model_args=SIZES).eval()
    if norms:
        with torch.no_grad():
            for name, p in encoder.named_parameters():
                if p.ndim == 1:
                    p.copy_(0.5 * torch.randn(p.shape) + (0.0 if name.endswith("bias") else 1.0))
    return encoder


def gradients(encoder: TimmFeatures, regions: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(1)
    sum((each * torch.randn(each.shape)).sum() for each in encoder(regions)).backward()
    return {name: p.grad for name, p in encoder.named_parameters()}


def test_every_parameter_learns_once_norms_are_not_zero():
    regions = torch.randn(2, 2, 128, 128)
    start = gradients(make(norms=False), regions)
    assert not any(start[name].any() for name in start if ".attn." in name)
    later = gradients(make(norms=True), regions)
    assert [name for name, grad in later.items() if grad is None or not grad.any()] == []
    assert all(grad.isfinite().all() for grad in later.values())


def test_maps_are_those_of_the_whole_classifier_with_the_same_weights():
    encoder = make(norms=True)
    whole = timm.create_model(
        "swinv2_tiny_window16_256", in_chans=2, img_size=128, num_classes=0, global_pool="", **SIZES
    ).eval()
    state = {re.sub(r"layers_(\d)", r"layers.\1", name): p for name, p in encoder.model.state_dict().items()}
    state["norm.weight"], state["norm.bias"] = whole.norm.weight, whole.norm.bias
    whole.load_state_dict(state)
    regions = torch.randn(2, 2, 128, 128)
    with torch.no_grad():
        maps, want = encoder(regions), whole.forward_intermediates(regions, intermediates_only=True)
    assert encoder.strides == (4, 8, 16, 32)
    assert encoder.channels == (16, 32, 64, 128)
    for a, b in zip(maps, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_regions_of_a_batch_are_independent_and_attention_reaches_past_a_window():
    encoder = make(norms=True)
    regions = torch.randn(3, 2, 128, 128)
    with torch.no_grad():
        before = encoder(regions)
        torch.testing.assert_close([each[1:2] for each in before], encoder(regions[1:2]), rtol=1e-4, atol=1e-4)
        regions[0, :, :4, :4] += 1
        after = encoder(regions)
    changed = (after[0] - before[0]).abs().amax(1) > 1e-6
    assert not changed[1:].any()
    # The second block's windows of 8 × 8 tokens are shifted by 4, so the first token is seen up to 11.
    assert changed[0, :8, :8].all()
    assert changed[0, 11, 11]
    assert not changed[0, 13:, 13:].any()


def pair(size: int, **model_args: object) -> tuple[TimmFeatures, nn.Module]:
    """An encoder, and timm's own model with the same parameters."""
    encoder = TimmFeatures(2, "swinv2_t", size, model_args=SIZES | model_args).eval()
    stock = timm.create_model(
        "swinv2_tiny_window16_256", in_chans=2, img_size=size, features_only=True, **(SIZES | model_args)
    ).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for p in encoder.parameters():
            p += 0.3 * torch.randn(p.shape)
        encoder.get_parameter("model.layers_0.blocks.0.attn.logit_scale").fill_(5)  # beyond what counts
    stock.load_state_dict(encoder.model.state_dict())
    for name, table in stock.named_buffers():
        if name.endswith("relative_coords_table"):
            table.nan_to_num_()  # what timm before 1.0.31 has of windows of one token
    return encoder, stock


def nchw(maps: list[Tensor]) -> list[Tensor]:
    return [each.permute(0, 3, 1, 2) for each in maps]


@pytest.mark.parametrize("size", [128, 96, 64, 32])
@pytest.mark.parametrize("tokens", [1, 150, 10**6])
def test_maps_and_gradients_are_those_of_timm(size: int, tokens: int, monkeypatch: pytest.MonkeyPatch):
    # Of 96 px the maps are 24, 12, 6 and 3 wide: whole windows of 8, padded ones, and smaller windows.
    monkeypatch.setattr(swin_v2, "TOKENS", tokens)
    encoder, stock = pair(size)
    regions = torch.randn(3, 2, size, size)
    with torch.no_grad():
        torch.testing.assert_close(encoder(regions), nchw(stock(regions)), rtol=1e-4, atol=1e-4)
    encoder.zero_grad()
    got = gradients(encoder, regions)
    torch.manual_seed(1)
    sum((each * torch.randn(each.shape)).sum() for each in nchw(stock(regions))).backward()
    for name, p in stock.named_parameters():
        difference = (got[f"model.{name}"] - p.grad).norm() / p.grad.norm().clamp(min=1e-3)
        assert difference < 2e-3, (name, difference)


@pytest.mark.parametrize("options", [{"depths": (1, 2, 1, 1)}, {"strict_img_size": False}])
def test_shifted_windows_that_are_padded_or_masked_when_asked_are_those_of_timm(options: dict[str, object]):
    encoder, stock = pair(96, **options)  # the second stage has 12 × 12 tokens in windows of 8
    regions = torch.randn(2, 2, 96, 96)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(encoder(regions), nchw(stock(regions)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("autocast", [False, True])
def test_tokens_are_moved_as_by_rolling_and_cutting(autocast: bool, monkeypatch: pytest.MonkeyPatch):
    encoder, _ = pair(128)
    found = []
    for plain in (False, True):
        if plain:
            monkeypatch.setattr(swin_v2.Block, "_padded", lambda self, x: True)
        regions = torch.randn(2, 2, 128, 128, generator=torch.Generator().manual_seed(0), requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            maps = encoder.model(regions)
        gradient = torch.autograd.grad(sum(each.float().square().sum() for each in maps), regions)
        found.append([*maps, *gradient])
    for quick, slow in zip(*found, strict=True):
        torch.testing.assert_close(quick, slow, rtol=1e-5, atol=1e-5 * float(slow.detach().abs().max()))


def test_training_goes_on_after_a_validation_without_gradients():
    encoder, _ = pair(128, drop_path_rate=0.1)
    encoder.train()
    regions = torch.randn(2, 2, 128, 128)
    with torch.inference_mode():
        encoder(regions)
    assert all(grad is not None for grad in gradients(encoder, regions).values())


def test_the_bias_follows_its_parameters():
    encoder, stock = pair(64)
    regions = torch.randn(1, 2, 64, 64)
    with torch.no_grad():
        encoder(regions)
        for name, p in encoder.model.named_parameters():
            if "cpb_mlp" in name:
                p.mul_(-2)
        stock.load_state_dict(encoder.model.state_dict())
        torch.testing.assert_close(encoder(regions), nchw(stock(regions)), rtol=1e-4, atol=1e-4)
        for name, p in encoder.model.named_parameters():
            if "cpb_mlp" in name:
                p.data = -0.5 * p  # another tensor, as moving to another device makes one
        stock.load_state_dict(encoder.model.state_dict())
        torch.testing.assert_close(encoder(regions), nchw(stock(regions)), rtol=1e-4, atol=1e-4)
        other, _ = pair(64)
        encoder.load_state_dict(other.state_dict())
        torch.testing.assert_close(encoder(regions), other(regions))
        encoder.double()
        torch.testing.assert_close(encoder(regions.double()), other(regions), check_dtype=False, rtol=1e-4, atol=1e-4)


def test_the_bias_is_computed_once_while_nothing_changes(monkeypatch: pytest.MonkeyPatch):
    encoder, _ = pair(64)
    calls: list[int] = []
    compute = swin_v2.Attention._position_bias
    monkeypatch.setattr(swin_v2.Attention, "_position_bias", lambda self: (calls.append(1), compute(self))[1])
    with torch.no_grad():
        encoder(torch.randn(1, 2, 64, 64))
        encoder(torch.randn(2, 2, 64, 64))
    assert len(calls) == sum(SIZES["depths"])


def test_the_bias_of_bfloat16_is_not_that_of_float32():
    (encoder, _), (new, _), regions = pair(64), pair(64), torch.randn(1, 2, 64, 64)
    new.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            rounded = encoder(regions)
        assert torch.equal(encoder(regions)[-1], new(regions)[-1])
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(encoder(regions)[-1], rounded[-1])


@pytest.mark.parametrize("option", [{"drop_path_rate": 0.5}, {"proj_drop_rate": 0.5}, {"attn_drop_rate": 0.5}])
def test_what_is_random_in_training_stays_so(option: dict[str, float]):
    encoder, stock = pair(64, **option)
    regions = torch.randn(2, 2, 64, 64)
    quiet = encoder(regions)
    encoder.train()
    stock.train()
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.manual_seed(5)
            got = encoder(regions)
            torch.manual_seed(5)
            torch.testing.assert_close(got, nchw(stock(regions)), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(got[-1], quiet[-1], atol=1e-3)


@pytest.mark.slow
def test_torch_compile_sees_one_graph():
    encoder, stock = pair(64)
    compiled = torch.compile(encoder.model, fullgraph=True, backend="aot_eager")
    regions = torch.randn(1, 2, 64, 64)
    torch.testing.assert_close(compiled(regions), stock(regions), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(compiled(regions), stock(regions), rtol=1e-4, atol=1e-4)
    asked = TimmFeatures(2, "swinv2_t", 64, model_args=SIZES, compile=True)
    assert asked.model._compiled_call_impl is not None
    assert asked.spec()["init_args"]["compile"] is False
    assert asked.state_dict().keys() == encoder.state_dict().keys()


def test_matrix_products_and_gelu_are_of_linear(monkeypatch: pytest.MonkeyPatch):
    seen: list[bool] = []
    right = swin_v2.linear

    def note(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
        seen.append(gelu)
        return right(x, weight, bias, gelu)

    monkeypatch.setattr(swin_v2, "linear", note)
    monkeypatch.setattr("xt.models.linear.linear", note)
    encoder, stock = pair(128)
    regions = torch.randn(1, 2, 128, 128)
    with torch.no_grad():
        torch.testing.assert_close(list(encoder(regions)), nchw(stock(regions)), rtol=1e-4, atol=1e-4)
    # A block has 4 layers, a GELU behind one of them, and makes the bias of its positions by 2; stages are joined by 3.
    assert (len(seen), sum(seen)) == (6 * 6 + 3, 6)


def test_windows_of_one_token_are_mended_where_timm_has_no_place_for_them():
    stock = timm.create_model("swinv2_tiny_window16_256", in_chans=2, img_size=32, features_only=True, **SIZES).eval()
    table = stock.get_buffer("layers_3.blocks.0.attn.relative_coords_table")
    assert table.shape == (1, 1, 1, 2)
    table.fill_(torch.nan)
    accelerate(stock)
    with torch.no_grad():
        assert all(each.isfinite().all() for each in stock(torch.randn(1, 2, 32, 32)))
