import math

import pytest
import torch
from family import IDS, LAYOUTS, check_contract, check_cuts, check_pieces, growth, tokens_for
from literal import agree, layer_norm, randomise, silu
from torch import Tensor, nn

from xt.errors import ModelError
from xt.geometry.grid import TokenLayout
from xt.models.context import base, wkv
from xt.models.context.rwkv import RWKV
from xt.models.context.wkv import wkv4, wkv6

DIM, HEAD = 8, 4


def make(version: int, depth: int = 2) -> RWKV:
    return RWKV(DIM, depth, version, HEAD, 2)


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def blend(mix: Tensor, rows: list[Tensor], t: int) -> Tensor:
    before = rows[t - 1] if t else torch.zeros_like(rows[t])
    return mix * rows[t] + (1 - mix) * before


def mix4(m: nn.Module, rows: list[Tensor]) -> list[Tensor]:
    """Sums over all earlier tokens, as the paper writes them."""
    ks, vs, rs = (
        [layer.weight @ blend(mix, rows, t) for t in range(len(rows))]
        for layer, mix in ((m.key, m.mix_k), (m.value, m.mix_v), (m.receptance, m.mix_r))
    )
    w, found = -torch.exp(m.decay), []
    for t in range(len(rows)):
        weights = [torch.exp((t - 1 - i) * w + ks[i]) for i in range(t)] + [torch.exp(m.bonus + ks[t])]
        mean = sum(a * v for a, v in zip(weights, vs, strict=False)) / sum(weights)
        found.append(m.output.weight @ (sigmoid(rs[t]) * mean))
    return found


def mix6(m: nn.Module, rows: list[Tensor]) -> list[Tensor]:
    """A matrix for each head, token by token."""
    heads = DIM // HEAD
    states = [torch.zeros(HEAD, HEAD, dtype=rows[0].dtype) for _ in range(heads)]
    found = []
    for t, x in enumerate(rows):
        before = rows[t - 1] if t else torch.zeros_like(x)
        xxx = x + (before - x) * m.mix_x
        w_in, k_in, v_in, r_in, g_in = (
            x + (before - x) * (m.mix[n] + m.mix_up[n] @ torch.tanh(m.mix_down[n] @ xxx)) for n in range(5)
        )
        k, v, r = m.key.weight @ k_in, m.value.weight @ v_in, m.receptance.weight @ r_in
        decay = torch.exp(-torch.exp(m.decay + m.decay_up @ torch.tanh(m.decay_down @ w_in)))
        y = []
        for h in range(heads):
            part = slice(h * HEAD, (h + 1) * HEAD)
            new = torch.outer(k[part], v[part])
            y.append(r[part] @ (torch.diag(m.bonus[part]) @ new + states[h]))
            states[h] = torch.diag(decay[part]) @ states[h] + new
            centred = y[h] - y[h].mean()
            y[h] = centred / torch.sqrt(centred.square().mean() + 64e-5)
        normed = torch.cat(y) * m.norm.weight + m.norm.bias
        found.append(m.output.weight @ (normed * silu(m.gate.weight @ g_in)))
    return found


def channel_mix(m: nn.Module, rows: list[Tensor]) -> list[Tensor]:
    found = []
    for t in range(len(rows)):
        inner = torch.clamp(m.key.weight @ blend(m.mix_k, rows, t), min=0) ** 2
        found.append(sigmoid(m.receptance.weight @ blend(m.mix_r, rows, t)) * (m.value.weight @ inner))
    return found


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("length", "depth"), [(3, 1), (21, 2)])
def test_follows_the_equations_and_directions_alternate(version: int, length: int, depth: int):
    encoder, layout = randomise(make(version, depth)), TokenLayout(1, length, 1)

    def literal(x: Tensor) -> Tensor:
        x = x[0]
        for index, layer in enumerate(encoder.layers):
            x = x.flip(0) if index % 2 == 0 else x
            mix = mix4 if version == 4 else mix6
            x = x + torch.stack(mix(layer.time_mix, list(layer_norm(layer.time_norm, x))))
            x = x + torch.stack(channel_mix(layer.channel_mix, list(layer_norm(layer.channel_norm, x))))
            x = x.flip(0) if index % 2 == 0 else x
        return x[None]

    agree(encoder, literal, lambda x: encoder(x, layout), tokens_for(layout, DIM))


def test_exponents_do_not_overflow():
    k = torch.tensor([0.0, 200, -300, 1000, 0, 0, -1000] * 5)[None, :, None].requires_grad_()
    v = torch.arange(35.0)[None, :, None]
    out, state = wkv4(torch.tensor([0.5]), torch.tensor([0.1]), k, v, None)
    assert out.isfinite().all()
    torch.testing.assert_close(out[0, 3:5, 0], torch.tensor([3.0, 3.0]))
    assert all(each.isfinite().all() for each in state)
    (grad,) = torch.autograd.grad(out.sum(), k)
    assert grad.isfinite().all()


def test_strong_and_weak_decays_give_no_nan():
    g = torch.Generator().manual_seed(0)
    r, k, v, x = (torch.randn(1, 40, 1, 4, generator=g) for _ in range(4))
    log_decay = -(8 * x).exp()
    assert log_decay.min() < -1e4
    given = [each.requires_grad_() for each in (r, k, v, log_decay)]
    y, state = wkv6(*given, torch.ones(1, 4), None)
    grads = torch.autograd.grad(y.sum() + state.sum(), given)
    assert all(each.isfinite().all() for each in (y, state, *grads))
    hidden, want = torch.zeros(4, 4), []
    for t in range(40):
        new = torch.outer(k[0, t, 0], v[0, t, 0])
        want.append(r[0, t, 0] @ (hidden + new))
        hidden = log_decay[0, t, 0].exp()[:, None] * hidden + new
    torch.testing.assert_close(y[0, :, 0], torch.stack(want), rtol=1e-3, atol=1e-3)


def test_segments_change_nothing(monkeypatch: pytest.MonkeyPatch):
    encoder, layout = randomise(make(6)), TokenLayout(1, 37, 1)
    x = tokens_for(layout, DIM)
    want = encoder(x, layout)
    monkeypatch.setattr(wkv, "SEGMENT", 20)
    torch.testing.assert_close(encoder(x, layout), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("version", [4, 6])
def test_cut_anywhere_passes_equal_forward(version: int):
    check_cuts(make(version, 3), 37)


@pytest.mark.parametrize("version", [4, 6])
def test_pieces_change_no_gradient(version: int, monkeypatch: pytest.MonkeyPatch):
    check_pieces(make(version), lambda: monkeypatch.setattr(base, "PIECE_TOKENS", 7))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("layout", LAYOUTS, ids=IDS)
def test_contract(version: int, layout: TokenLayout):
    check_contract(lambda: make(version), layout)


@pytest.mark.parametrize("version", [4, 6])
def test_cost_is_linear(version: int):
    assert growth(make(version, 1)) <= 1.02


@pytest.mark.parametrize("version", [4, 6])
def test_start_is_that_of_the_papers(version: int):
    dim, depth = 64, 3
    for n, layer in enumerate(RWKV(dim, depth, version).layers):
        mix, place, want = layer.time_mix, n / (depth - 1), {}
        # The exponent of the blends never gets to 0: the last layer, too, hears the token before.
        early = torch.tensor([(i / dim) ** (1 - n / depth) for i in range(dim)])
        slow = torch.tensor([(i / dim) ** (0.5 - 0.5 * n / depth) for i in range(dim)])
        fraction = torch.arange(dim) / (dim - 1)
        zigzag = torch.tensor([(i + 1) % 3 - 1 for i in range(dim)])
        if version == 4:
            want = {"mix_k": early, "mix_v": early + 0.3 * place, "mix_r": slow}
            want |= {"decay": -5 + 8 * fraction ** (0.7 + 1.3 * place), "bonus": math.log(0.3) + 0.5 * zigzag}
        else:
            rows = (early, early, early + 0.3 * place, slow, slow)
            want = {"mix_x": 1 - early, "mix": torch.stack([1 - each for each in rows])}
            want["decay"] = -6 + 5 * fraction ** (0.7 + 1.3 * place)
            want["bonus"] = place * (1 - fraction) + 0.1 * zigzag
        for name, value in want.items():
            torch.testing.assert_close(mix.get_parameter(name), value, msg=name)
        for name in ("mix_k", "mix_r"):
            torch.testing.assert_close(layer.channel_mix.get_parameter(name), early)


def test_recurrence_takes_no_weight_decay():
    encoder = make(6)
    assert "layers.0.time_mix.decay_up" in encoder.no_weight_decay()
    assert "layers.0.time_mix.mix" in encoder.no_weight_decay()


def test_sizes_are_checked():
    with pytest.raises(ModelError, match="version 5 is not there; take 4 or 6"):
        RWKV(64, version=5)
    with pytest.raises(ModelError, match="32 does not divide by head_dim 64"):
        RWKV(32)
    assert RWKV(32, version=4).dim == 32
