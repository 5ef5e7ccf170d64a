import copy
from functools import partial

import pytest
import torch
from family import IDS, LAYOUTS, check_contract, growth, tokens_for
from literal import agree, causal_taps, exact, randomise, silu
from torch import Tensor, nn

from xt.errors import ModelError
from xt.geometry.grid import TokenLayout
from xt.models.context.blocks import Attention
from xt.models.context.jamba import Jamba, JambaMixer
from xt.models.context.moe import MixtureOfExperts
from xt_kernels.hyper_attention import hyper_attention

DIM, HEAD = 8, 4
LAYOUT = TokenLayout(1, 11, 1)


def make(depth: int = 6, **options: float) -> Jamba:
    return Jamba(DIM, depth, **{"head_dim": HEAD, "mlp_ratio": 2, "num_experts": 4, "d_state": 3, **options})


def norm(m: nn.RMSNorm, x: Tensor) -> Tensor:
    return m.weight * x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)


def mamba(m: nn.Module, tokens: Tensor) -> Tensor:
    """Mamba with a norm on step, B and C, over ``(L, D)``."""
    inner, states = m.A_log.shape
    both = [m.in_proj.weight @ token for token in tokens]
    rows = causal_taps([row[:inner] for row in both], m.conv1d.weight[:, 0], m.conv1d.bias)
    h, found = torch.zeros(inner, states, dtype=tokens.dtype), []
    for row, convolved in zip(both, rows, strict=True):
        x = silu(convolved)
        read = m.x_proj.weight @ x
        rank = len(read) - 2 * states
        step, b, c = norm(m.dt_norm, read[:rank]), norm(m.b_norm, read[rank:-states]), norm(m.c_norm, read[-states:])
        delta = torch.log1p(torch.exp(m.dt_proj.weight @ step + m.dt_proj.bias))
        h = torch.exp(-delta[:, None] * torch.exp(m.A_log)) * h + torch.outer(delta * x, b)
        found.append(m.out_proj.weight @ ((h @ c + m.D * x) * silu(row[inner:])))
    return torch.stack(found)


def attention(m: nn.Module, tokens: Tensor) -> Tensor:
    q, k, v = (
        torch.stack([(tokens @ w.T + b)[:, h : h + HEAD] for h in range(0, DIM, HEAD)])
        for w, b in zip(m.qkv.weight.split(DIM), m.qkv.bias.split(DIM), strict=True)
    )
    return torch.cat(list(exact(q, k, v)), 1) @ m.proj.weight.T + m.proj.bias


def gated(m: nn.Module, x: Tensor) -> Tensor:
    return m.down_proj.weight @ (silu(m.gate_proj.weight @ x) * (m.up_proj.weight @ x))


def mixture(m: nn.Module, tokens: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Token by token: the likeliest experts, by probabilities over all of them; and how unevenly they are used."""
    found, counts, chances = [], [0.0] * len(m.experts), 0.0
    for x in tokens:
        weights = torch.exp(m.router.weight @ x)
        p = weights / weights.sum()
        taken = sorted(range(len(p)), key=lambda e: -p[e].item())[:top_k]
        found.append(sum(p[e] * gated(m.experts[e], x) for e in taken))
        chances = chances + p / len(tokens)
        for e in taken:
            counts[e] += 1 / len(tokens)
    return torch.stack(found), len(m.experts) * sum(c * p for c, p in zip(counts, chances, strict=True))


def literal(encoder: Jamba, x: Tensor) -> tuple[Tensor, Tensor]:
    x, uneven, scans = x[0], [], 0
    for index, layer in enumerate(encoder.layers):
        own = norm(layer.mixer_norm, x)
        if index % 8 == 4:
            x = x + attention(layer.mixer, own)
        else:
            turned = own.flip(0) if scans % 2 == 0 else own
            mixed = mamba(layer.mixer, turned)
            x = x + (mixed.flip(0) if scans % 2 == 0 else mixed)
            scans += 1
        own = norm(layer.mlp_norm, x)
        if index % 2 == 1:
            said, how = mixture(layer.mlp, own, 2)
            uneven.append(how)
        else:
            said = torch.stack([gated(layer.mlp, each) for each in own])
        x = x + said
    return x[None], 0.001 * sum(uneven) / len(uneven)


@pytest.mark.parametrize("training", [True, False])
def test_follows_the_equations(training: bool):
    encoder = randomise(make()).train(training)
    layout = TokenLayout(1, 40, 1)

    def both(x: Tensor) -> Tensor:
        out = encoder(x, layout)
        (loss,) = encoder.losses().values()
        return torch.cat([out.flatten(), 1000 * loss.view(1)])

    def wanted(x: Tensor) -> Tensor:
        out, loss = literal(encoder, x)
        return torch.cat([out.flatten(), 1000 * loss.view(1)])

    agree(encoder, wanted, both, tokens_for(layout, DIM), 1e-8)


def test_one_layer_of_eight_is_attention_and_every_second_mlp_a_mixture():
    with torch.device("meta"):
        layers = Jamba(128, 16).layers
    assert [i for i, each in enumerate(layers) if isinstance(each.mixer, Attention)] == [4, 12]
    assert sum(isinstance(each.mixer, JambaMixer) for each in layers) == 14
    assert [i for i, each in enumerate(layers) if isinstance(each.mlp, MixtureOfExperts)] == list(range(1, 16, 2))
    assert len(layers[1].mlp.experts) == 16


def test_attention_to_many_tokens_is_hashed_with_a_seed_of_its_own_and_taper():
    layer, x = randomise(make(5, min_seq_len=590, seed=7)).layers[4], tokens_for(TokenLayout(1, 600, 1), DIM)
    options = {"min_seq_len": 590, "seed": 4007, "taper": True}
    want, *others = (
        layer.mixer(x, None, partial(hyper_attention, **(options | other)))
        for other in ({}, {"seed": 7}, {"taper": False}, {"min_seq_len": 600})
    )
    assert not any(torch.equal(want, other) for other in others)
    assert torch.equal(layer._run(layer.mixer, x), want)


def test_auxiliary_loss_is_that_of_the_last_forward_and_least_when_even():
    encoder, x = make(num_experts=4).train(), tokens_for(LAYOUT, DIM).detach().float()
    assert encoder.losses() == {}
    encoder(x, LAYOUT)
    first = encoder.losses()["load_balance"]
    encoder(2 * x, LAYOUT)
    assert encoder.losses()["load_balance"] != first
    with torch.no_grad():
        encoder(x, LAYOUT)
    assert encoder.losses() == {}
    assert make(num_experts=0).train()(x, LAYOUT).shape == x.shape
    mixture, one = MixtureOfExperts(DIM, 2, 4, 2), torch.ones(1, 6, DIM)
    with torch.no_grad():
        mixture.router.weight.zero_()
        assert mixture(one)[1] == pytest.approx(2)
        mixture.router.weight[:2] = 1
        assert mixture(one)[1] > 3.9


def test_a_model_with_a_loss_can_be_copied_between_steps():
    encoder = make(2).train()
    encoder(tokens_for(LAYOUT, DIM).detach().float(), LAYOUT)
    (loss,) = encoder.losses().values()
    loss.backward()
    copy.deepcopy(encoder.eval())


@pytest.mark.parametrize("layout", LAYOUTS, ids=IDS)
def test_contract(layout: TokenLayout):
    check_contract(make, layout)


def test_cost_is_near_linear():
    encoder = Jamba(16, 5, head_dim=16, mlp_ratio=2, num_experts=2, min_seq_len=64)
    assert growth(encoder) <= 1.1


def test_experts_must_be_enough():
    with pytest.raises(ModelError, match="top_k 5 must be 1 to num_experts, 4"):
        make(top_k=5)
