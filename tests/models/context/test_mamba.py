import pytest
import torch
import torch.nn.functional as F
from literal import agree, mamba, mamba_mixer, randomise

from xt.geometry.grid import TokenLayout
from xt.models.context.mamba import Mamba
from xt.models.selective import MambaMixer


def tokens(length: int, dim: int, batch: int = 1) -> torch.Tensor:
    g = torch.Generator().manual_seed(length)
    return torch.randn(batch, length, dim, generator=g, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("length", [1, 3, 19])
@pytest.mark.parametrize(("dim", "d_state", "d_conv", "expand"), [(8, 16, 4, 2), (20, 3, 2, 3)])
def test_mixer_follows_the_equations(length: int, dim: int, d_state: int, d_conv: int, expand: int):
    mixer = randomise(MambaMixer(dim, d_state, d_conv, expand))
    # A_log gets no gradient from a first step alone, whose state before is 0.
    for p in [mixer.A_log] if length == 1 else []:
        p.requires_grad_(False)
    module = torch.nn.ParameterList(p for p in mixer.parameters() if p.requires_grad)
    agree(module, lambda x: mamba_mixer(mixer, x[0])[None], mixer, tokens(length, dim))


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("training", [True, False])
def test_encoder_follows_the_equations_and_directions_alternate(depth: int, training: bool):
    layout = TokenLayout(2, 3, 2, num_extra=1)
    encoder = randomise(Mamba(8, depth)).train(training)
    x = tokens(layout.num_tokens, 8)
    agree(encoder, lambda x: mamba(encoder.layers, x[0])[None], lambda x: encoder(x, layout), x)


@pytest.mark.parametrize("depth", [1, 2])
def test_the_first_layer_reads_backward_and_the_second_forward(depth: int):
    layout = TokenLayout(1, 1, 4)
    encoder, x = randomise(Mamba(8, depth)), tokens(16, 8)
    (first,) = torch.autograd.grad(encoder(x, layout)[0, 0].sum(), x, retain_graph=True)
    (last,) = torch.autograd.grad(encoder(x, layout)[0, -1].sum(), x)
    assert first[0, -1].abs().sum() > 0
    assert (last[0, 0].abs().sum() > 0) == (depth > 1) == encoder.last_sees


def test_start_is_that_of_the_paper():
    torch.manual_seed(0)
    encoder = Mamba(64)
    assert len(encoder.layers) == 4
    for layer in encoder.layers:
        mixer = layer.mixer
        assert mixer.A_log.shape == (128, 16)
        torch.testing.assert_close(mixer.A_log.exp(), torch.arange(1.0, 17).expand(128, 16))
        assert (mixer.D == 1).all()
        step = F.softplus(mixer.dt_proj.bias).log10()
        assert step.min() > -3.01
        assert step.max() < -0.99
        # Log-uniform: half of the steps below 1e-2.
        assert 0.3 < (step < -2).float().mean() < 0.7
        assert mixer.dt_proj.weight.shape == (128, 4)
        assert 0.45 < mixer.dt_proj.weight.abs().max() <= 0.5
    assert Mamba(20, 1).layers[0].mixer.dt_rank == 2


def test_names_are_those_of_the_released_checkpoints():
    names = {f"mixer.{n}.weight" for n in ("in_proj", "x_proj", "out_proj", "dt_proj", "conv1d")}
    names |= {"mixer.dt_proj.bias", "mixer.conv1d.bias", "mixer.A_log", "mixer.D", "norm.weight", "norm.bias"}
    assert set(Mamba(8, 2).state_dict()) == {f"layers.{i}.{name}" for i in range(2) for name in names}


def test_recurrence_takes_no_weight_decay():
    encoder = Mamba(8, 2)
    assert encoder.no_weight_decay() == {f"layers.{i}.mixer.{name}" for i in range(2) for name in ("A_log", "D")}
    assert encoder.no_weight_decay() <= {name for name, _ in encoder.named_parameters()}
