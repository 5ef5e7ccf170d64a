import pytest
import torch
from family import IDS, LAYOUTS, check_contract, growth, tokens_for
from literal import agree, layer_norm, mamba_mixer, randomise
from torch import Tensor

from xt.geometry.grid import TokenLayout
from xt.models.context import base
from xt.models.context.rsmamba import RSMamba

DIM = 8
LAYOUT = TokenLayout(1, 13, 1)


def make(depth: int = 2, **options: int) -> RSMamba:
    return RSMamba(DIM, depth, **{"d_state": 3, **options})


def literal(encoder: RSMamba, x: Tensor, shuffles: list[list[int]]) -> Tensor:
    """Three orders through one mixer, put back, weighted by the softmax of their means, added."""
    x = x[0]
    for layer, shuffle in zip(encoder.layers, shuffles, strict=True):
        own = layer_norm(layer.norm, x)
        paths = []
        for visited in (list(range(len(x))), list(range(len(x)))[::-1], shuffle):
            mixed = mamba_mixer(layer.mixer, torch.stack([own[i] for i in visited]))
            rows = dict(zip(visited, mixed, strict=True))
            paths.append(torch.stack([rows[i] for i in range(len(x))]))
        weights = torch.exp(layer.gate.weight @ torch.cat([path.sum(0) / len(x) for path in paths]))
        for weight, path in zip(weights / weights.sum(), paths, strict=True):
            x = x + weight * path
    return x[None]


@pytest.mark.parametrize("piece", [1000, 4])
def test_follows_the_equations_in_evaluation(piece: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(base, "PIECE_TOKENS", piece)
    encoder = randomise(make()).eval()
    shuffles = [encoder.shuffle(index, 13).tolist() for index in range(2)]
    assert shuffles[0] != shuffles[1] != list(range(13))
    agree(encoder, lambda x: literal(encoder, x, shuffles), lambda x: encoder(x, LAYOUT), tokens_for(LAYOUT, DIM))


@pytest.mark.parametrize("piece", [1000, 4])
def test_follows_the_equations_in_training_over_what_was_drawn(piece: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(base, "PIECE_TOKENS", piece)
    encoder = randomise(make()).train()

    def run(x: Tensor) -> Tensor:
        torch.manual_seed(5)
        return encoder(x, LAYOUT)

    torch.manual_seed(5)
    shuffles = [torch.randperm(13).tolist() for _ in range(2)]
    agree(encoder, lambda x: literal(encoder, x, shuffles), run, tokens_for(LAYOUT, DIM))


def test_training_shuffles_anew_and_evaluation_does_not():
    encoder, x = randomise(make()), tokens_for(LAYOUT, DIM)
    assert not torch.equal(encoder.train()(x, LAYOUT), encoder(x, LAYOUT))
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(encoder.eval()(x, LAYOUT))
    assert torch.equal(*found)
    other = randomise(make(seed=7)).eval()
    other.load_state_dict(encoder.state_dict())
    assert not torch.equal(other(x, LAYOUT), found[0])


def test_evaluation_leaves_the_generator_alone():
    encoder, x = make().eval(), tokens_for(LAYOUT, DIM).float()
    before = torch.get_rng_state()
    encoder(x, LAYOUT)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("layout", LAYOUTS, ids=IDS)
def test_contract(layout: TokenLayout):
    check_contract(make, layout)


def test_cost_is_linear():
    assert growth(RSMamba(16, 1)) <= 1.02
