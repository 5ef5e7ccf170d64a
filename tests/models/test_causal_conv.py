from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xt.models.causal_conv import convolve, convolve_piece

TAPS, DIM = 4, 6


def a_conv(dtype: torch.dtype = torch.float64) -> nn.Conv1d:
    torch.manual_seed(0)
    return nn.Conv1d(DIM, DIM, TAPS, groups=DIM, padding=TAPS - 1).to(dtype)


def by_hand(conv: nn.Conv1d, x: Tensor, reverse: bool) -> Tensor:
    """Token by token: the last tap is that of the token itself, the ones before look back."""
    rows = []
    for t in range(x.shape[1]):
        y = conv.bias.expand(len(x), DIM)
        for back in range(TAPS):
            at = t + back if reverse else t - back
            if 0 <= at < x.shape[1]:
                y = y + conv.weight[:, 0, TAPS - 1 - back] * x[:, at]
        rows.append(y)
    return torch.stack(rows, 1)


def gradients(y: Tensor, conv: nn.Conv1d, x: Tensor) -> list[Tensor]:
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return list(torch.autograd.grad((y * weights).sum(), [x, conv.weight, conv.bias]))


def in_pieces(conv: nn.Conv1d, x: Tensor, reverse: bool, size: int) -> Tensor:
    pieces, seen, found = list(x.split(size, 1)), None, []
    for piece in reversed(pieces) if reverse else pieces:
        y, seen = convolve_piece(conv, piece, reverse, seen)
        assert seen.shape == (len(x), DIM, TAPS - 1)
        found.append(y)
    return torch.cat(found[::-1] if reverse else found, 1)


WAYS: dict[str, Callable[[nn.Conv1d, Tensor, bool], Tensor]] = {
    "whole": convolve,
    "pieces of 1": lambda conv, x, reverse: in_pieces(conv, x, reverse, 1),
    "pieces of 5": lambda conv, x, reverse: in_pieces(conv, x, reverse, 5),
}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 2, 4, 13])
@pytest.mark.parametrize("library", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_it_is_the_sum_over_taps(way: str, library: bool, length: int, reverse: bool, monkeypatch: pytest.MonkeyPatch):
    if library:
        monkeypatch.setattr("xt.models.causal_conv._moves_less", lambda *_: False)
    conv = a_conv()
    x = torch.randn(2, length, 2 * DIM, dtype=torch.float64).chunk(2, -1)[1].requires_grad_()
    y, want = WAYS[way](conv, x, reverse), by_hand(conv, x, reverse)
    torch.testing.assert_close(y, want)
    torch.testing.assert_close(gradients(y, conv, x), gradients(want, conv, x))


def test_gradcheck():
    conv, x = a_conv(), torch.randn(1, 5, DIM, dtype=torch.float64, requires_grad=True)
    seen = torch.randn(1, DIM, TAPS - 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, seen: convolve_piece(conv, x, True, seen), (x, seen))


def test_what_is_seen_keeps_no_segment_alive():
    x = torch.randn(1, 1000, DIM)
    for reverse in (False, True):
        _, seen = convolve_piece(a_conv(torch.float32), x, reverse, None)
        assert seen.untyped_storage().nbytes() == seen.numel() * 4


def test_the_library_is_left_where_taps_would_not_be_exact(monkeypatch: pytest.MonkeyPatch):
    asked: list[torch.dtype] = []
    plain = F.conv1d

    def conv1d(x: Tensor, weight: Tensor, *args: object, **kwargs: object) -> Tensor:
        asked.append(x.dtype)
        return plain(x, weight, *args, **kwargs)

    monkeypatch.setattr(F, "conv1d", conv1d)
    for dtype in (torch.float32, torch.float64):
        convolve_piece(a_conv(dtype), torch.randn(1, 5, DIM, dtype=dtype), False, None)
    assert asked == []
    convolve_piece(a_conv(torch.bfloat16), torch.randn(1, 5, DIM).bfloat16(), False, None)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = convolve_piece(a_conv(torch.float32), torch.randn(1, 5, DIM), False, None)
    assert y.dtype == torch.bfloat16
    assert len(asked) == 2


class _Convolving(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = a_conv(torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        return convolve_piece(self.conv, x, False, None)[0]


def test_any_number_of_sequences_is_exported():
    traced = torch.export.export(_Convolving(), (torch.randn(2, 9, DIM),), dynamic_shapes=({0: torch.export.Dim("n")},))
    x = torch.randn(3, 9, DIM)
    torch.testing.assert_close(traced.module()(x), _Convolving()(x))
