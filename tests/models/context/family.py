"""What every encoder of the family is asked, whatever its equations."""

import math
from collections.abc import Callable

import torch
from literal import randomise
from torch import Tensor

from xt.geometry.grid import TokenLayout
from xt.models.context.base import ContextEncoder, Memory, SequentialContextEncoder
from xt.testing.checks.cuts import cut_up
from xt.testing.counting import counting

LAYOUTS = [
    TokenLayout(1, 1, 1),
    TokenLayout(3, 5, 2),
    TokenLayout(3, 2, 3, num_extra=1),
    TokenLayout(2, 3, 4, exists=(True, False, False, True, False, True), num_extra=1),
]
LONE = TokenLayout(1, 1, 1)
IDS = ["1 × 1", "6 × 10", "9 × 6 and one", "three of six regions and one"]


def tokens_for(layout: TokenLayout, dim: int, batch: int = 1) -> Tensor:
    g = torch.Generator().manual_seed(layout.num_tokens)
    return torch.randn(batch, layout.num_tokens, dim, generator=g, dtype=torch.float64).requires_grad_()


def check_contract(make: Callable[[], ContextEncoder], layout: TokenLayout) -> None:
    """Shape, gradients to all, images that do not mix, the same answer twice in eval, bf16, meta, class token."""
    torch.manual_seed(0)
    encoder = make()
    x = tokens_for(layout, encoder.dim, 2).detach().float().requires_grad_()
    out = encoder.train()(x, layout)
    assert out.shape == x.shape
    (out.square().sum() + sum(encoder.losses().values())).backward()
    assert x.grad.isfinite().all()
    for name, p in encoder.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
    assert encoder.no_weight_decay() <= {name for name, _ in encoder.named_parameters()}
    encoder.eval()
    with torch.no_grad():
        out = encoder(x, layout)
        assert torch.equal(out, encoder(x, layout))
        torch.testing.assert_close(encoder(x[1:], layout), out[1:], rtol=1e-4, atol=1e-5)
        if layout.num_tokens > 1 and encoder.last_sees:
            y = x.clone()
            y[:, 0] += torch.randn(encoder.dim, generator=torch.Generator().manual_seed(2))
            assert not torch.equal(encoder(y, layout)[:, -1], out[:, -1])
        half = encoder.bfloat16()(x.bfloat16(), layout)
        assert half.dtype == torch.bfloat16
        assert half.isfinite().all()
    with torch.device("meta"):
        make()


def check_memory(memory: Memory) -> list[torch.Size]:
    assert not any(each.requires_grad for each in memory)
    assert all(each.untyped_storage().nbytes() == each.nbytes for each in memory)
    return [each.shape for each in memory]


def check_cuts(encoder: SequentialContextEncoder, length: int = 23) -> None:
    """Passes over any cut, single tokens among them, give what forward does."""
    encoder, layout = randomise(encoder).eval(), TokenLayout(1, length, 1)
    given = tokens_for(layout, encoder.dim, 2)
    want = encoder(given, layout)
    for cuts in ({1}, {length - 1, 5, 6}, set(range(1, length))):
        x = given
        for one in encoder.passes():
            x, memories = cut_up(one, x, cuts)
            assert len({tuple(check_memory(memory)) for memory in memories}) == 1
            assert x.shape[2] == (one.channels or encoder.dim)
        torch.testing.assert_close(x, want, rtol=1e-9, atol=1e-9)


def check_pieces(encoder: SequentialContextEncoder, small: Callable[[], None]) -> None:
    """Taking the sequence in pieces, as ``small`` arranges, changes no output and no gradient."""
    encoder, layout = randomise(encoder).train(), TokenLayout(3, 5, 2)
    found = []
    for arrange in (lambda: None, small):
        arrange()
        x = tokens_for(layout, encoder.dim, 2)
        out = encoder(x, layout)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3), dtype=out.dtype)
        found.append([out, *torch.autograd.grad((out * weights).sum(), [x, *encoder.parameters()])])
    for whole, pieces in zip(*found, strict=True):
        assert whole.abs().max() > 0
        torch.testing.assert_close(pieces, whole, atol=1e-9, rtol=1e-7)


def elements(encoder: ContextEncoder, side: int, region: int = 8) -> int:
    """Elements made over ``side²`` regions of ``region²`` tokens."""
    layout = TokenLayout(side, side, region)
    with counting() as counter, torch.no_grad():
        encoder.eval()(torch.zeros(1, layout.num_tokens, encoder.dim), layout)
    return counter.elements


def growth(encoder: ContextEncoder, side: int = 6, region: int = 8) -> float:
    """Exponent with which the elements made grow from ``side²`` regions to four times as many."""
    return math.log(elements(encoder, 2 * side, region) / elements(encoder, side, region), 4)
