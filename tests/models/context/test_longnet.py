import math

import pytest
import torch
from family import IDS, LAYOUTS, check_contract, growth, tokens_for
from literal import agree, attention_block, randomise
from torch import Tensor

from xt.errors import ModelError
from xt.geometry.grid import TokenLayout
from xt.models.context import longnet
from xt.models.context.longnet import LongNet, patterns_for

DIM, HEAD = 12, 4
PATTERNS = [(4, 1), (6, 2), (16, 5)]


def make(depth: int = 2) -> LongNet:
    lengths, dilations = zip(*PATTERNS, strict=True)
    return LongNet(DIM, depth, HEAD, 2, lengths, dilations)


def dilated(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Query by query: what it keeps in each pattern, all patterns in one softmax weighted by what each sums to."""
    heads, length, size = q.shape
    patterns = list(PATTERNS)
    if length > 16:
        patterns.append((length, math.ceil(length * 5 / 16)))
    rows = []
    for head in range(heads):
        for query in range(length):
            total, mixed = 0.0, 0.0
            from_end = length - 1 - query
            for segment, dilation in patterns:
                segment = min(segment, length)
                if from_end % segment % dilation != head % dilation:
                    continue
                for key in range(length):
                    away = length - 1 - key
                    same = away // segment == from_end // segment
                    if same and away % segment % dilation == head % dilation:
                        weight = torch.exp(q[head, query] @ k[head, key] / math.sqrt(size))
                        total, mixed = total + weight, mixed + weight * v[head, key]
            rows.append(mixed / total)
    return torch.stack(rows).view(heads, length, size)


@pytest.mark.parametrize(("length", "depth"), [(1, 1), (3, 2), (17, 1), (29, 2)])
def test_follows_the_equations(length: int, depth: int):
    encoder, layout = randomise(make(depth)), TokenLayout(1, length, 1)

    def literal(x: Tensor) -> Tensor:
        x = x[0]
        for layer in encoder.layers:
            x = attention_block(layer, x, None, HEAD, dilated)
        return x[None]

    x = tokens_for(layout, DIM)
    if length > 1:
        agree(encoder, literal, lambda x: encoder(x, layout), x)
    torch.testing.assert_close(encoder(x, layout), literal(x))


def test_patterns_end_with_one_over_all():
    assert patterns_for(16, PATTERNS) == [(4, 1), (6, 2), (16, 5)]
    assert patterns_for(5, PATTERNS) == [(4, 1), (5, 2), (5, 5)]
    assert patterns_for(160, PATTERNS) == [*PATTERNS, (160, 50)]
    for length in (17, 100, 1000):
        segment, dilation = patterns_for(length, PATTERNS)[-1]
        assert segment == length
        assert length / dilation <= 16 / 5


@pytest.mark.parametrize("length", [17, 33, 97, 161])
def test_class_token_is_never_alone_and_two_blocks_hear_the_far_end(length: int):
    layout = TokenLayout(1, length - 1, 1, num_extra=1)
    x = tokens_for(layout, DIM)
    (grad,) = torch.autograd.grad(randomise(make(2))(x, layout)[0, -1].sum(), x)
    heard = grad[0].abs().sum(-1) > 0
    assert heard[-5:].all()
    assert heard[: length // 3].any()


def test_groups_of_segments_change_nothing(monkeypatch: pytest.MonkeyPatch):
    layout = TokenLayout(1, 29, 1)
    encoder, x = randomise(make()), tokens_for(layout, DIM)
    want = encoder(x, layout)
    monkeypatch.setattr(longnet, "SCORES", 1)
    torch.testing.assert_close(encoder(x, layout), want, rtol=1e-9, atol=1e-9)


def test_large_scores_do_not_overflow():
    layout = TokenLayout(1, 29, 1)
    encoder, x = make(), tokens_for(layout, DIM).detach().float().requires_grad_()
    with torch.no_grad():
        encoder.layers[0].attn.qkv.weight.mul_(100)
    encoder(x, layout).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("layout", LAYOUTS, ids=IDS)
def test_contract(layout: TokenLayout):
    check_contract(make, layout)


def test_cost_is_linear():
    assert growth(make(1)) <= 1.02


@pytest.mark.parametrize(
    ("lengths", "dilations", "message"),
    [
        ((4, 8), (1,), "must be as many"),
        ((4, 8), (2, 4), "the first dilation 1"),
        ((8, 4), (1, 2), "must ascend"),
        ((), (), "at least 1"),
    ],
)
def test_patterns_are_checked(lengths: tuple[int, ...], dilations: tuple[int, ...], message: str):
    with pytest.raises(ModelError, match=message):
        LongNet(DIM, 1, HEAD, 2, lengths, dilations)
