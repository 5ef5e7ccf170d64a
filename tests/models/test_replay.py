"""What is computed a second time is computed with what the first time had, or refused."""

from collections.abc import Callable

import pytest
import torch
from parts import small_model
from torch import Tensor, nn

from xt.errors import ModelError
from xt.models.replay import Weights
from xt.models.xt import XT

SIZE = 130, 150


def image(seed: int = 0) -> Tensor:
    return torch.randn(1, 2, *SIZE, generator=torch.Generator().manual_seed(seed))


def loss_of(maps: dict[str, Tensor]) -> Tensor:
    return torch.stack([each.square().mean() for each in maps.values()]).sum()


def lent(model: XT) -> dict[str, Tensor]:
    """Other parameters than the model has."""
    generator = torch.Generator().manual_seed(3)
    return {
        name: (p.detach() + 0.1 * torch.randn(p.shape, generator=generator)).requires_grad_()
        for name, p in model.named_parameters()
    }


def grads(model: XT, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Gradients of parameters that a call lends to a model."""
    given = lent(model)
    maps = torch.func.functional_call(model, change(given), (image(),))
    found = torch.autograd.grad(loss_of(maps), list(given.values()), allow_unused=True)
    return {name: grad for name, grad in zip(given, found, strict=True) if grad is not None}


@pytest.mark.parametrize("scale", [1, 2])
def test_parameters_that_are_lent_get_the_gradients(scale: int):
    """As meta-learning does it, where they are computed from others."""
    model = small_model()
    before = [p.detach().clone() for p in model.parameters()]
    model.streaming = False
    want = grads(model, lambda given: {name: p * scale if scale != 1 else p for name, p in given.items()})
    model.streaming = True
    got = grads(model, lambda given: {name: p * scale if scale != 1 else p for name, p in given.items()})
    assert set(got) == set(want)
    assert {name.partition(".")[0] for name in want} == {"region_encoder", "context", "decoder", "heads"}
    for name, each in want.items():
        assert (got[name] - each).norm() <= 1e-4 * each.norm() + 1e-9, name
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    assert all(isinstance(p, nn.Parameter) for p in model.parameters())


def test_buffers_that_were_lent_are_had_again():
    module, other = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    weights, mean = Weights([module]), module.running_mean
    module.running_mean = other.running_mean
    with weights.lent():
        assert module.running_mean is mean
    assert module.running_mean is other.running_mean


def test_tensors_that_are_kept_elsewhere_meanwhile_get_the_gradients():
    """As activation checkpointing and offloading do it: what is kept comes back as another tensor."""
    model, want = small_model(), {}
    for pack in (lambda t: t, lambda t: t.clone()):
        model.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = loss_of(model(image()))
        loss.backward()
        found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        want = want or found
        assert set(found) == set(want)
        assert all(torch.equal(found[name], each) for name, each in want.items())


@pytest.mark.parametrize("part", ["region_encoder", "decoder"])
def test_a_step_between_forward_and_backward_is_refused(part: str):
    model = small_model()
    loss = loss_of(model(image()))
    with torch.no_grad():
        next(p for p in getattr(model, part).parameters() if p.requires_grad).mul_(2)
    with pytest.raises(ModelError, match="parameters were changed between forward and backward"):
        loss.backward()


def test_an_image_that_was_overwritten_is_refused():
    model, buffer = small_model(), image()
    maps = model.encode(buffer)
    buffer.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        maps.maps[-1].sum().backward()


def test_a_model_that_was_built_for_inference_answers():
    plain = small_model().eval()
    with torch.inference_mode():
        want, got = plain(image()), small_model().eval()(image())
    assert all(torch.equal(got[name], each) for name, each in want.items())
