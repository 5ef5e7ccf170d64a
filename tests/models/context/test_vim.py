import pytest
import torch
from family import IDS, LAYOUTS, check_contract, check_cuts, check_pieces, growth, tokens_for
from literal import agree, causal_taps, randomise, rms_norm, selective, silu
from torch import Tensor, nn

from xt.geometry.grid import TokenLayout
from xt.models.context import base
from xt.models.context.vim import Vim

DIM = 8


def make(depth: int = 2, **options: int) -> Vim:
    return Vim(DIM, depth, **{"d_state": 3, **options})


def block(layer: nn.Module, x: Tensor) -> Tensor:
    """One block over ``(L, D)``: two directions, one gate, one projection."""
    inner = layer.out_proj.in_features
    both = [layer.in_proj.weight @ token for token in rms_norm(layer.norm, x)]
    heard = []
    for direction, turn in ((layer.forward_direction, 1), (layer.backward_direction, -1)):
        conv = direction.conv1d
        rows = causal_taps([row[:inner] for row in both][::turn], conv.weight[:, 0], conv.bias)
        heard.append(selective(direction, [silu(row) for row in rows])[::turn])
    mixed = [(f + b) / 2 * silu(row[inner:]) for f, b, row in zip(*heard, both, strict=True)]
    return x + torch.stack(mixed) @ layer.out_proj.weight.T


@pytest.mark.parametrize(("length", "depth", "taps"), [(4, 1, 4), (17, 2, 2)])
def test_follows_the_equations(length: int, depth: int, taps: int):
    encoder, layout = randomise(make(depth, d_conv=taps)), TokenLayout(1, length, 1)

    def literal(x: Tensor) -> Tensor:
        mixed = x[0]
        for layer in encoder.layers:
            mixed = block(layer, mixed)
        return mixed[None]

    agree(encoder, literal, lambda x: encoder(x, layout), tokens_for(layout, DIM))


def test_one_block_hears_both_ends():
    encoder, layout = randomise(make(1)), TokenLayout(1, 9, 1)
    x = tokens_for(layout, DIM)
    for near, far in ((0, -1), (-1, 0)):
        (grad,) = torch.autograd.grad(encoder(x, layout)[0, near].sum(), x)
        assert grad[0, far].abs().sum() > 0


def test_residual_stays_in_fp32():
    layout = TokenLayout(1, 6, 1)
    torch.manual_seed(0)
    encoder = make(40).eval()
    with torch.no_grad():
        for layer in encoder.layers:
            layer.load_state_dict(encoder.layers[0].state_dict())
            layer.out_proj.weight.mul_(0.2)
        x = tokens_for(layout, DIM).bfloat16()
        encoder.bfloat16().float()
        added = encoder(x.float(), layout) - x
        # What one layer adds is less than half a step of bfloat16 for most.
        assert added.norm() / 40 < 2**-9 * x.float().norm()
        got = encoder.bfloat16()(x, layout) - x.float()
        assert (got - added).norm() < 0.5 * added.norm()


def test_cut_anywhere_passes_equal_forward():
    check_cuts(make(2))
    check_cuts(make(1, d_conv=1))


def test_pieces_change_no_gradient(monkeypatch: pytest.MonkeyPatch):
    check_pieces(make(), lambda: monkeypatch.setattr(base, "PIECE_TOKENS", 7))


@pytest.mark.parametrize("layout", LAYOUTS, ids=IDS)
def test_contract(layout: TokenLayout):
    check_contract(make, layout)


def test_cost_is_linear():
    assert growth(Vim(16, 1)) <= 1.02


def test_rank_of_the_step_is_rounded_up():
    layer = Vim(20, 1).layers[0]
    assert [each.dt_rank for each in (layer.backward_direction, layer.forward_direction)] == [2] * 2
