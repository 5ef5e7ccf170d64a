from collections.abc import Callable
from dataclasses import replace
from functools import partial

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from literal import randomise
from parts import BothWays
from torch import Tensor

from xt.geometry.grid import TokenLayout
from xt.models.context import base
from xt.models.context.base import COSTS, ContextEncoder, Pass, SequentialContextEncoder
from xt.models.context.identity import Identity
from xt.models.context.mamba import Mamba
from xt.models.context.mamba2 import Mamba2
from xt.models.context.msa import MSA
from xt.models.context.rsmamba import RSMamba
from xt.models.context.rwkv import RWKV
from xt.models.context.ss2d import SS2D
from xt.models.context.vim import Vim
from xt.testing.checks.cuts import cut_up
from xt.testing.counting import counting, exponent

DIM = 8
ENCODERS = {
    "Identity": lambda: Identity(DIM),
    "BothWays": lambda: BothWays(DIM),
    **{f"Mamba {depth}": lambda depth=depth: Mamba(DIM, depth) for depth in (1, 2, 3, 4)},
    "one tap": lambda: Mamba(DIM, 2, d_conv=1),
    "many taps": lambda: Mamba(DIM, 2, d_state=3, d_conv=9, expand=1),
}


def tokens(length: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, length, DIM, generator=torch.Generator().manual_seed(length))


def in_segments(encoder: SequentialContextEncoder, x: Tensor, cuts: list[set[int]]) -> Tensor:
    for one, places in zip(encoder.passes(), cuts, strict=True):
        x, _ = cut_up(one, x, places)
        assert x.shape[2] == (one.channels or DIM)
    return x


@pytest.mark.parametrize("name", ENCODERS)
@settings(max_examples=8)
@given(data=st.data())
def test_passes_over_any_cut_equal_forward(name: str, data: st.DataObject):
    torch.manual_seed(0)
    encoder = ENCODERS[name]()
    length = data.draw(st.integers(1, 24))
    # Each pass is cut elsewhere; segments of one token and shorter than the taps are among them.
    places = st.sets(st.integers(1, length - 1)) if length > 1 else st.just(set())
    cuts = [data.draw(places) for _ in encoder.passes()]
    x = tokens(length)
    with torch.inference_mode():
        want = encoder(x, TokenLayout(1, length, 1))
        torch.testing.assert_close(in_segments(encoder, x, cuts), want, rtol=1e-5, atol=1e-5)
        encoder, x = randomise(encoder), x.double()
        want = encoder(x, TokenLayout(1, length, 1))
        torch.testing.assert_close(in_segments(encoder, x, cuts), want, rtol=1e-9, atol=1e-9)


def test_what_both_ways_hear_is_added_before_the_projection():
    encoder, x = BothWays(DIM), tokens(5)
    fading = 0.8 ** (torch.arange(5)[:, None] - torch.arange(5)).abs()
    want = encoder.linear((fading + torch.eye(5)) @ x)
    torch.testing.assert_close(encoder(x, TokenLayout(1, 5, 1)), want, rtol=1e-5, atol=1e-5)


def test_mamba_starts_backward_and_alternates():
    assert [one.reverse for one in Mamba(DIM, 4).passes()] == [True, False, True, False]


@pytest.mark.parametrize(
    "make", [Mamba, Vim, partial(Mamba2, head_dim=4), partial(RWKV, version=4), partial(RWKV, version=6, head_dim=4)]
)
def test_states_stay_in_fp32(make: Callable[[int], SequentialContextEncoder]):
    x = tokens(5).bfloat16()
    for one in make(DIM).bfloat16().passes():
        x, memory = one.step(x, None)
        assert memory[-1].dtype == torch.float32


def test_gradients_go_through_passes_as_through_layers():
    encoder = randomise(Mamba(DIM, 2)).train()
    x = tokens(9).double().requires_grad_()
    inputs = [x, *encoder.parameters()]
    layout = TokenLayout(1, 9, 1)
    found = (encoder(x, layout), SequentialContextEncoder.forward(encoder, x, layout))
    for got, want in zip(*(torch.autograd.grad(y.square().sum(), inputs) for y in found), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)


def test_estimate_of_memory_is_linear_and_counts_the_type():
    for encoder in (Mamba(DIM), BothWays(DIM)):
        assert encoder.working_bytes(200) == 2 * encoder.working_bytes(100) > 100 * DIM * 4
        assert encoder.double().working_bytes(100) == encoder.float().working_bytes(200)
    assert Identity(DIM).working_bytes(100) == 0


@pytest.mark.parametrize("name", ["Mamba 3", "BothWays"])
def test_pieces_on_a_cpu_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch):
    encoder, layout = ENCODERS[name](), TokenLayout(3, 5, 2)
    randomise(encoder)
    x = tokens(layout.num_tokens).double()
    taken: list[int] = []
    plain = encoder.passes

    def passes() -> list[Pass]:
        def noted(each: Pass) -> Pass:
            return replace(each, step=lambda part, memory: (taken.append(part.shape[1]), each.step(part, memory))[1])

        return [noted(each) for each in plain()]

    monkeypatch.setattr(encoder, "passes", passes)
    monkeypatch.setattr(base, "PIECE_TOKENS", 7)
    with torch.no_grad():
        got = encoder(x, layout)
    assert max(taken) == 7
    monkeypatch.setattr(base, "PIECE_TOKENS", 1000)
    with torch.no_grad():
        torch.testing.assert_close(got, encoder(x, layout), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got, encoder(x, layout).detach(), atol=1e-5, rtol=1e-5)


def test_gradients_of_passes_do_not_end_where_pieces_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(base, "PIECE_TOKENS", 7)
    encoder, layout = BothWays(DIM), TokenLayout(1, 20, 1)
    x = tokens(20).requires_grad_()
    (first,) = torch.autograd.grad(encoder(x, layout)[:, 0].sum(), x, retain_graph=True)
    (last,) = torch.autograd.grad(encoder(x, layout)[:, -1].sum(), x)
    assert first[:, -1].abs().min() > 0
    assert last[:, 0].abs().min() > 0


@pytest.mark.parametrize("make", [Mamba, SS2D, RSMamba, lambda dim: MSA(dim, head_dim=dim, window=2, pool=2)])
def test_gradients_of_more_pieces_cost_no_more(make: Callable[[int], ContextEncoder], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(base, "PIECE_TOKENS", 8)
    encoder, elements = make(DIM), []
    for cols in (8, 64):
        layout = TokenLayout(1, cols, 4)
        x = tokens(layout.num_tokens, 1).requires_grad_()
        with counting() as counter:
            encoder(x, layout).sum().backward()
        elements.append(counter.elements)
    assert exponent((8, 64), (elements[0], elements[1])) < COSTS[encoder.cost]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("taps", [1, 4])
def test_gradients_go_from_piece_to_piece(training: bool, taps: int, monkeypatch: pytest.MonkeyPatch):
    encoder, layout = Mamba(DIM, 3, d_conv=taps), TokenLayout(3, 5, 2)
    randomise(encoder)
    encoder.train(training)
    x, weights = (tokens(layout.num_tokens + n).double()[:, n:] for n in range(2))
    found = []
    for size in (1000, 7):
        monkeypatch.setattr(base, "PIECE_TOKENS", size)
        encoder.zero_grad()
        given = x.clone().requires_grad_()
        out = encoder(given, layout)
        (out * weights).sum().backward()
        found.append([out.detach(), given.grad, *(each.grad.clone() for each in encoder.parameters())])
    for whole, pieces in zip(*found, strict=True):
        assert whole.abs().max() > 0
        torch.testing.assert_close(pieces, whole, atol=1e-10, rtol=1e-8)
