from collections.abc import Sequence

import pytest
import torch
from family import IDS, LAYOUTS, check_contract, growth, tokens_for
from literal import agree, mamba_mixer, randomise
from torch import Tensor, nn

from xt.errors import ModelError
from xt.geometry.grid import TokenLayout
from xt.models.context.timemachine import TimeMachine

DIM = 6


def make(depth: int = 2, **options: int) -> TimeMachine:
    return TimeMachine(DIM, depth, **{"d_state": 3, "window": 3, **options})


def repeated(rows: Sequence[Tensor], size: int) -> list[list[Tensor]]:
    """Rows in groups of one size, the last filled up with the last row."""
    rows = list(rows)
    while len(rows) % size:
        rows.append(rows[-1])
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def linear(runs: nn.Module, rows: Sequence[Tensor]) -> list[Tensor]:
    """``num_in`` rows become ``num_out``, each a sum of them by its own weights."""
    found = []
    for group in repeated(rows, runs.weight.shape[1]):
        for weights, bias in zip(runs.weight, runs.bias, strict=True):
            found.append(bias + sum(w * row for w, row in zip(weights, group, strict=True)))
    return found


def read(mixer: nn.Module, rows: Sequence[Tensor], reverse: bool) -> list[Tensor]:
    rows = list(rows)[::-1] if reverse else list(rows)
    mixed = list(mamba_mixer(mixer, torch.stack(rows)))
    return mixed[::-1] if reverse else mixed


def pair(both: nn.Module, rows: list[Tensor], reverse: bool, window: int) -> list[Tensor]:
    """A Mamba along the tokens, and one over the channels of each window; over the windows of a single channel."""
    windows = [torch.stack(group) for group in repeated(rows, window)]
    if len(rows[0]) == 1:
        series = read(both.across, [each[:, 0] for each in windows], reverse)
        turned = [value[None] for each in series for value in each]
    else:
        turned = [row for each in windows for row in torch.stack(read(both.across, list(each.T), False), 1)]
    return [a + b for a, b in zip(read(both.along, rows, reverse), turned, strict=False)]


def series(layer: nn.Module, rows: list[Tensor], reverse: bool, window: int) -> list[Tensor]:
    outer = linear(layer.down_outer, rows)
    inner = linear(layer.down_inner, outer)
    inner = [a + b for a, b in zip(inner, pair(layer.inner, inner, reverse, window), strict=True)]
    back = [a + b for a, b in zip(outer, linear(layer.up_inner, inner), strict=False)]
    joined = [each for both in zip(back, pair(layer.outer, outer, reverse, window), strict=True) for each in both]
    return linear(layer.up_outer, joined)[: len(rows)]


def literal(encoder: TimeMachine, x: Tensor, window: int, independent: bool) -> Tensor:
    """RevIN, down, the outer pair, down, the inner pair, up, both, up; back to the scale that came, and added."""
    x = x[0]
    for index, layer in enumerate(encoder.layers):
        mean = sum(x) / len(x)
        deviation = torch.sqrt(sum((row - mean) ** 2 for row in x) / len(x) + 1e-5)
        rows = [(row - mean) / deviation * layer.gain + layer.bias for row in x]
        if independent:
            columns = [series(layer, [row[d : d + 1] for row in rows], index % 2 == 0, window) for d in range(DIM)]
            mixed = [torch.cat([column[t] for column in columns]) for t in range(len(x))]
        else:
            mixed = series(layer, rows, index % 2 == 0, window)
        x = torch.stack([row + deviation * each for row, each in zip(x, mixed, strict=True)])
    return x[None]


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize(("length", "pool"), [(13, 2), (28, 3)])
def test_follows_the_equations(length: int, pool: int, independent: bool):
    encoder = randomise(make(pool=pool, window=2, channel_independent=independent))
    layout = TokenLayout(1, length - 1, 1, num_extra=1)
    agree(encoder, lambda x: literal(encoder, x, 2, independent), lambda x: encoder(x, layout), tokens_for(layout, DIM))


def test_independent_channels_do_not_mix():
    layout = TokenLayout(2, 3, 2)
    x = tokens_for(layout, DIM)
    for independent in (True, False):
        encoder = randomise(make(channel_independent=independent))
        (grad,) = torch.autograd.grad(encoder(x, layout)[0, :, 2].square().sum(), x)
        others = [channel for channel in range(DIM) if channel != 2]
        assert grad[..., 2].abs().min() > 0
        assert bool(grad[..., others].any()) is not independent


def test_every_token_sees_every_other():
    encoder, layout = randomise(make()), TokenLayout(1, 40, 1)
    for token in (0, 20, 39):
        x = tokens_for(layout, DIM)
        (grad,) = torch.autograd.grad(encoder(x, layout)[0, token].sum(), x)
        assert (grad.abs().sum(-1) > 1e-12).all()


def test_maps_start_as_means_and_repetition():
    layer = make().layers[0]
    x = torch.arange(4.0)[None, :, None].expand(1, 4, DIM)
    down = layer.down_outer(x)
    assert down[0, :, 0].tolist() == [0.5, 2.5]
    assert layer.up_inner(down)[0, :, 0].tolist() == [0.5, 0.5, 2.5, 2.5]


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS, ids=IDS)
def test_contract(layout: TokenLayout, independent: bool):
    check_contract(lambda: make(channel_independent=independent), layout)


@pytest.mark.parametrize("independent", [False, True])
def test_cost_is_linear(independent: bool):
    assert growth(TimeMachine(16, 1, channel_independent=independent)) <= 1.02


def test_sizes_are_checked():
    with pytest.raises(ModelError, match="pool 1 and window 16"):
        make(pool=1, window=16)
