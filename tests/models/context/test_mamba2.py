import pytest
import torch
import torch.nn.functional as F
from family import IDS, LAYOUTS, check_contract, check_cuts, check_pieces, growth, tokens_for
from literal import agree, causal_taps, randomise, rms_norm, silu
from torch import Tensor, nn

from xt.errors import ModelError
from xt.geometry.grid import TokenLayout
from xt.models.context import base
from xt.models.context.mamba2 import Mamba2, ssd

DIM = 8


def make(depth: int = 2, **options: int) -> Mamba2:
    return Mamba2(DIM, depth, **{"d_state": 3, "head_dim": 4, "chunk_size": 4, **options})


def mixer(m: nn.Module, tokens: Tensor, groups: int, states: int, head_dim: int) -> Tensor:
    """Equations of the paper over ``(L, D)``, head by head and token by token."""
    p = dict(m.named_parameters())
    heads, inner = len(p["D"]), m.out_proj.in_features
    rows = [p["in_proj.weight"] @ token for token in tokens]
    end = 2 * inner + 2 * groups * states
    convolved = causal_taps([row[inner:end] for row in rows], p["conv1d.weight"][:, 0], p["conv1d.bias"])
    hidden = [torch.zeros(head_dim, states, dtype=tokens.dtype) for _ in range(heads)]
    outputs = []
    for row, each in zip(rows, convolved, strict=True):
        x, bs, cs = silu(each).split([inner, groups * states, groups * states])
        y = []
        for head in range(heads):
            first = head // (heads // groups) * states
            b, c = bs[first : first + states], cs[first : first + states]
            own = x[head * head_dim : (head + 1) * head_dim]
            delta = torch.log1p(torch.exp(row[end + head] + p["dt_bias"][head]))
            decay = torch.exp(-delta * torch.exp(p["A_log"][head]))
            hidden[head] = decay * hidden[head] + delta * torch.outer(own, b)
            y.append(hidden[head] @ c + p["D"][head] * own)
        gated = (torch.cat(y) * silu(row[:inner])).chunk(groups)  # each group has a norm of its own
        normed = torch.cat([each / torch.sqrt(each.square().mean() + 1e-5) for each in gated])
        outputs.append(p["out_proj.weight"] @ (p["norm.weight"] * normed))
    return torch.stack(outputs)


@pytest.mark.parametrize(("length", "groups", "depth"), [(1, 1, 2), (4, 2, 1), (19, 2, 3)])
def test_follows_the_equations_and_directions_alternate(length: int, groups: int, depth: int):
    encoder, layout = randomise(make(depth, num_groups=groups)), TokenLayout(1, length, 1)

    def literal(x: Tensor) -> Tensor:
        x = x[0]
        for index, layer in enumerate(encoder.layers):
            own = rms_norm(layer.norm, x)
            turned = own.flip(0) if index % 2 == 0 else own
            mixed = mixer(layer.mixer, turned, groups, 3, 4)
            x = x + (mixed.flip(0) if index % 2 == 0 else mixed)
        return x[None]

    for layer in encoder.layers if length == 1 else []:
        # The decay of a state that is 0 shows in nothing.
        layer.mixer.A_log.requires_grad_(False)
    learned = nn.ParameterList(p for p in encoder.parameters() if p.requires_grad)
    agree(learned, literal, lambda x: encoder(x, layout), tokens_for(layout, DIM))


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_chunks_change_nothing(chunk: int):
    x, layout = tokens_for(TokenLayout(1, 17, 1), DIM), TokenLayout(1, 17, 1)
    encoder, other = randomise(make()), make(chunk_size=chunk).double()
    other.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(other(x, layout), encoder(x, layout), rtol=1e-9, atol=1e-9)


def test_strong_decays_give_no_nan():
    encoder, layout = make(chunk_size=64), TokenLayout(1, 64, 1)
    with torch.no_grad():
        for layer in encoder.layers:
            layer.mixer.A_log.fill_(8)
            layer.mixer.dt_bias.fill_(3)
    x = tokens_for(layout, DIM).detach().float()
    encoder(x, layout).sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


def test_strong_decays_leave_the_others_their_digits():
    g = torch.Generator().manual_seed(0)
    x, b, c = (torch.randn(1, 64, 1, 4, generator=g) for _ in range(3))
    delta, rate = torch.full((1, 64, 1), 0.05), torch.tensor([-1.0])
    delta[:, :4] = 1e5
    want, _ = ssd(*(each.double() for each in (x, delta, rate, b, c)), None, 1)
    torch.testing.assert_close(ssd(x, delta, rate, b, c, None, 64)[0].double(), want, rtol=1e-4, atol=1e-4)


def test_cut_anywhere_passes_equal_forward():
    check_cuts(make(3, num_groups=2))
    check_cuts(make(2, d_conv=1))


def test_pieces_change_no_gradient(monkeypatch: pytest.MonkeyPatch):
    check_pieces(make(), lambda: monkeypatch.setattr(base, "PIECE_TOKENS", 7))


@pytest.mark.parametrize("layout", LAYOUTS, ids=IDS)
def test_contract(layout: TokenLayout):
    check_contract(make, layout)


def test_cost_is_linear():
    assert growth(Mamba2(16, 1, head_dim=16)) <= 1.02


def test_start_is_that_of_the_paper():
    torch.manual_seed(0)
    mixer = Mamba2(64, 1).layers[0].mixer
    assert mixer.A_log.shape == mixer.D.shape == mixer.dt_bias.shape == (2,)
    steps, rates = zip(*((m.dt_bias, m.A_log.exp()) for m in (e.mixer for e in Mamba2(512, 8).layers)), strict=True)
    step = F.softplus(torch.cat(steps)).log10()
    assert -3.01 < step.min() < -2.9
    assert -1.1 < step.max() < -0.99
    assert 1 <= torch.cat(rates).min() < 2
    assert 15 < torch.cat(rates).max() <= 16


def test_heads_must_fit_with_the_numbers():
    with pytest.raises(ModelError, match=r"inner width 16 \(2 × 8\) does not divide by head_dim 64"):
        Mamba2(8)
    with pytest.raises(ModelError, match=r"its 4 heads by num_groups 3"):
        make(num_groups=3)
