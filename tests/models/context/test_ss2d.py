import pytest
import torch
from family import IDS, LAYOUTS, LONE, check_contract, growth, tokens_for
from literal import agree, gelu, layer_norm, places, randomise, selective, silu
from torch import Tensor, nn

from xt.geometry import order
from xt.geometry.grid import TokenLayout
from xt.models.context import base
from xt.models.context.ss2d import SS2D

DIM = 8


def make(depth: int = 2, **options: float) -> SS2D:
    return SS2D(DIM, depth, **{"d_state": 3, "mlp_ratio": 2, **options})


def mix(mixer: nn.Module, x: Tensor, layout: TokenLayout) -> Tensor:
    """The equations over ``(L, D)`` with the place of each token looked up."""
    place = places(layout)
    at = {each: index for index, each in enumerate(place)}
    own = [mixer.in_proj.weight @ token for token in x]
    rows = []
    for index, each in enumerate([*place, *[None] * layout.num_extra]):
        total = mixer.conv2d.bias + mixer.conv2d.weight[:, 0, 1, 1] * own[index]
        for down in (-1, 0, 1) if each else ():
            for right in (-1, 0, 1):
                neighbour = at.get((each[0] + down, each[1] + right))
                if neighbour is not None and (down or right):
                    total = total + mixer.conv2d.weight[:, 0, 1 + down, 1 + right] * own[neighbour]
        rows.append(silu(total))
    extra = list(range(len(place), len(x)))
    by_row = [at[each] for each in sorted(at)] + extra
    by_column = [at[each] for each in sorted(at, key=lambda rc: (rc[1], rc[0]))] + extra
    orders = [by_row, by_row[::-1], by_column, by_column[::-1]]
    summed = [torch.zeros_like(row) for row in rows]
    for scan, visited in zip(mixer.scans, orders, strict=True):
        for index, y in zip(visited, selective(scan, [rows[i] for i in visited]), strict=True):
            summed[index] = summed[index] + y
    return layer_norm(mixer.norm, torch.stack(summed)) @ mixer.out_proj.weight.T


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != LONE], ids=IDS[1:])
@pytest.mark.parametrize(("mlp_ratio", "piece"), [(0, 1000), (2, 5)])
def test_follows_the_equations(layout: TokenLayout, mlp_ratio: int, piece: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(base, "PIECE_TOKENS", piece)
    encoder = randomise(make(1 + (mlp_ratio > 0), mlp_ratio=mlp_ratio))

    def literal(x: Tensor) -> Tensor:
        x = x[0]
        for layer in encoder.layers:
            x = x + mix(layer.mixer, layer_norm(layer.norm, x), layout)
            if mlp_ratio:
                up, down = layer.mlp.up_proj, layer.mlp.down_proj
                x = x + gelu(layer_norm(layer.mlp_norm, x) @ up.weight.T + up.bias) @ down.weight.T + down.bias
        return x[None]

    agree(encoder, literal, lambda x: encoder(x, layout), tokens_for(layout, DIM))


def test_columns_are_as_near_as_rows():
    layout = TokenLayout(1, 2, 3, exists=(True, False))
    assert order.column_major(layout).tolist() == [0, 3, 6, 1, 4, 7, 2, 5, 8]
    layout = TokenLayout(2, 2, 1, exists=(True, True, True, False), num_extra=2)
    assert order.column_major(layout).tolist() == [0, 2, 1, 3, 4]


@pytest.mark.parametrize("layout", LAYOUTS, ids=IDS)
def test_contract(layout: TokenLayout):
    check_contract(make, layout)


def test_only_extra_tokens():
    layout = TokenLayout(1, 1, 2, exists=(False,), num_extra=1)
    assert make()(torch.zeros(2, 1, DIM), layout).shape == (2, 1, DIM)


def test_cost_is_linear():
    assert growth(SS2D(16, 1)) <= 1.02


def test_rank_of_the_step_is_rounded_up():
    layer = SS2D(20, 1).layers[0]
    assert [each.dt_rank for each in layer.mixer.scans] == [2] * 4
