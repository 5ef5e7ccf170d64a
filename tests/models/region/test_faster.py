"""Layers of timm's models that are replaced."""

import copy

import pytest
import timm
import torch
from timm.layers import Mlp
from torch import Tensor, nn

from xt.models import linear
from xt.models.linear import FusedMlp
from xt.models.region.faster import accelerate

MODELS = {
    "convnext_atto": {"dims": [40, 80, 160, 320], "depths": [1, 1, 1, 1], "conv_mlp": False},
    "vit_tiny_patch16_224": {"img_size": 64, "depth": 2},
    "hiera_tiny_224": {"img_size": (64, 64), "stages": (1, 1, 1, 1)},
}


@pytest.mark.skipif(not linear._available(), reason="needs oneDNN and an x86 processor")
@pytest.mark.parametrize("name", MODELS)
def test_other_models_say_what_timm_says(name: str, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    stock = timm.create_model(name, num_classes=7, **MODELS[name]).eval()
    ours = copy.deepcopy(stock)
    accelerate(ours)
    seen: list[str] = []
    right = linear._call

    def note(x: Tensor, weight: Tensor, bias: Tensor | None, then: str = "none") -> Tensor:
        seen.append(then)
        return right(x, weight, bias, then)

    monkeypatch.setattr(linear, "_call", note)
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), stock(image), rtol=1e-4, atol=1e-5)
    assert seen.count("gelu") == sum(isinstance(module, Mlp) for module in stock.modules())
    assert seen.count("none") >= seen.count("gelu")
    grads = [torch.autograd.grad(model(image).square().sum(), list(model.parameters())) for model in (ours, stock)]
    for a, b in zip(*grads, strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm().clamp(min=1e-3)


@pytest.mark.parametrize("use_conv", [False, True])
@pytest.mark.parametrize("act", [nn.GELU, lambda: nn.GELU("tanh"), nn.SiLU])
def test_mlps_of_any_kind(use_conv: bool, act: type[nn.Module]):
    torch.manual_seed(0)
    stock = Mlp(48, 96, act_layer=act, norm_layer=None, use_conv=use_conv)
    ours = copy.deepcopy(stock)
    accelerate(ours)
    assert type(ours) is FusedMlp
    x = torch.randn(2, 48, 16, 16) if use_conv else torch.randn(2, 256, 48)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), stock(x), rtol=1e-5, atol=1e-6)


def test_mlps_drop_and_norm_as_timm_does():
    torch.manual_seed(0)
    stock = Mlp(48, 96, norm_layer=nn.LayerNorm, drop=(0.5, 0.25))
    nn.init.normal_(stock.norm.weight)
    ours, found = copy.deepcopy(stock), []
    accelerate(ours)
    x = torch.randn(2, 256, 48)
    for model in (ours, stock):
        torch.manual_seed(1)
        with torch.no_grad():
            found.append(model(x))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)
    assert found[0].eq(0).float().mean() == pytest.approx(0.25, abs=0.02)


def test_classes_that_are_derived_keep_their_own():
    class Own(nn.Linear):
        pass

    model = nn.Sequential(Own(3, 4), nn.Linear(3, 4))
    accelerate(model)
    assert [type(each).__name__ for each in model] == ["Own", "Linear"]
    assert isinstance(model[1], linear.Linear)
    assert not isinstance(model[0], linear.Linear)
