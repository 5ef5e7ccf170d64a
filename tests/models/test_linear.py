import platform

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xt.models import linear as module
from xt.models.linear import Linear, linear


def draw(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(size, generator=g, dtype=dtype) for size in ((3, 80, 40), (56, 40), (56,)))
    return [each.requires_grad_() for each in (x, weight, bias)]


def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What goes through oneDNN from now on."""
    seen: list[str] = []
    right = module._call

    def note(x: Tensor, weight: Tensor, bias: Tensor | None, then: str = "none") -> Tensor:
        seen.append(then)
        return right(x, weight, bias, then)

    monkeypatch.setattr(module, "_call", note)
    return seen


needs_onednn = pytest.mark.skipif(not module._available(), reason="needs oneDNN and an x86 processor")


@needs_onednn
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_equals_torch_with_all_gradients_and_theirs(gelu: bool, with_bias: bool, monkeypatch: pytest.MonkeyPatch):
    seen = calls(monkeypatch)
    tensors = draw()[: 2 + with_bias]
    exact = [each.detach().double().requires_grad_() for each in tensors]
    found = []
    for inputs, function in ((tensors, lambda *t: linear(*t, gelu=gelu)), (exact, F.linear)):
        y = function(*inputs)
        y = F.gelu(y) if gelu and function is F.linear else y
        grads = torch.autograd.grad(y.sin().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(each.square().sum() for each in grads), inputs)
        found.append([y, *grads, *second])
    for a, b in zip(*found, strict=True):
        assert a.shape == b.shape
        assert (a.double() - b).norm() <= 1e-5 * b.norm()
    assert seen[:2] == ["none", "none"]  # forward, and the gradient of x


@needs_onednn
def test_gelu_is_fused_without_gradients(monkeypatch: pytest.MonkeyPatch):
    seen = calls(monkeypatch)
    x, weight, bias = (each.detach() for each in draw())
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight, bias, gelu=True), F.gelu(F.linear(x, weight, bias)))
    assert seen == ["gelu"]


@needs_onednn
def test_rows_that_lie_apart_and_work_in_place(monkeypatch: pytest.MonkeyPatch):
    seen = calls(monkeypatch)
    x, weight, bias = draw()
    x = x.detach()
    y = linear(x[:, ::2].transpose(0, 1), weight, bias)
    torch.testing.assert_close(y, F.linear(x[:, ::2].transpose(0, 1), weight, bias))
    (grad,) = torch.autograd.grad(y.relu_().sum(), weight)
    want = torch.autograd.grad(F.linear(x[:, ::2].transpose(0, 1), weight, bias).relu().sum(), weight)[0]
    torch.testing.assert_close(grad, want, rtol=1e-4, atol=1e-4)
    assert seen == ["none"]


@needs_onednn
def test_only_gradients_that_are_needed():
    x, weight, bias = draw()
    linear(x.detach(), weight.detach(), bias).sum().backward()
    assert bias.grad is not None
    linear(x, weight.detach()).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand_as(x))


class Own(Tensor):
    """A tensor that says itself what is done with it, as those of FSDP do."""


@pytest.mark.parametrize("why", ["double", "small", "autocast", "machine", "off", "other", "compiled", "subclass"])
def test_others_go_to_torch(why: str, monkeypatch: pytest.MonkeyPatch):
    x, weight, bias = draw(torch.float64 if why == "double" else torch.float32)
    if why == "small":
        x = x[:1, :50]
    if why == "machine":
        monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    if why == "other":
        monkeypatch.setattr(module, "ARGUMENTS", ["Tensor", "Tensor"])
        monkeypatch.setattr(module, "OPERATOR", module._operator())
    if why == "subclass":
        x, weight, bias = x.detach(), weight.detach().as_subclass(Own), bias.detach()
    seen = calls(monkeypatch)
    function = torch.compile(linear, backend="eager", fullgraph=True) if why == "compiled" else linear
    with torch.autocast("cpu", torch.bfloat16, enabled=why == "autocast"), torch.backends.mkldnn.flags(why != "off"):
        y, want = function(x, weight, bias, True), F.gelu(F.linear(x, weight, bias))
    assert y.dtype == want.dtype
    torch.testing.assert_close(y, want)
    assert not seen


@needs_onednn
def test_layer_has_the_parameters_of_torchs(monkeypatch: pytest.MonkeyPatch):
    stock, ours = nn.Linear(40, 56), Linear(40, 56)
    ours.load_state_dict(stock.state_dict())
    seen = calls(monkeypatch)
    x = draw()[0]
    torch.testing.assert_close(ours(x), stock(x))
    assert seen == ["none"]
