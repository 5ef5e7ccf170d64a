"""Backends that are made for exported graphs, against the oracles."""

import pytest
import torch
from torch import Tensor

from xt_kernels import dispatch
from xt_kernels.hyper_attention import hyper_attention
from xt_kernels.selective_scan import interface, portable, reference, selective_scan_channels_last
from xt_kernels.window_attention import window_attention


def draw(batch: int, length: int, dim: int, states: int, groups: int) -> list[Tensor]:
    """``u, delta, A, B, C, D, z, delta_bias, initial_state`` in fp64."""
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    u, delta, z = (normal(batch, length, dim) for _ in range(3))
    b, c = (normal(batch, length, groups, states) for _ in range(2))
    return [u, delta - 2, -normal(dim, states).exp(), b, c, normal(dim), z, normal(dim), normal(batch, dim, states)]


@pytest.mark.parametrize(("sizes", "bare"), [((1, 1, 5, 3, 1), True), ((2, 63, 6, 4, 3), False)])
@pytest.mark.parametrize("reverse", [False, True])
def test_scan_is_the_recurrence(sizes: tuple[int, ...], bare: bool, reverse: bool):
    u, delta, A, B, C, D, z, bias, start = draw(*sizes)
    rest = (None, None, None, False, None) if bare else (D, z, bias, True, start)
    delta = delta.exp() if bare else delta
    want = reference.selective_scan(u, delta, A, B, C, *rest, reverse)
    for found, right in zip(portable.selective_scan(u, delta, A, B, C, *rest, reverse), want, strict=True):
        torch.testing.assert_close(found, right)
        assert found.is_contiguous()


def test_scan_refuses_gradients_and_is_never_chosen():
    u, delta, A, B, C, *_ = draw(1, 5, 4, 2, 1)
    with pytest.raises(ValueError, match="it has no gradients"):
        selective_scan_channels_last(u.requires_grad_(), delta, A, B, C, backend="portable")
    with torch.no_grad():
        selective_scan_channels_last(u, delta, A, B, C, backend="portable")
    assert list(interface.BACKENDS)[-1] == "portable"


@pytest.mark.parametrize("shifted", [False, True])
def test_windows_are_those_of_the_oracle(shifted: bool):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    masks, kinds = (-100.0 * (normal(2, 7, 7) > 1), torch.tensor([0, 2, 1])) if shifted else (None, None)
    arguments = (normal(6, 7, 3, 2, 5), normal(2).exp(), normal(2, 7, 7), masks, kinds)
    found, want = (window_attention(*arguments, backend=name) for name in ("portable", "reference"))
    torch.testing.assert_close(found, want)
    assert found.is_contiguous()


@pytest.mark.parametrize(("length", "keys"), [(20, 20), (64, 64), (101, 101), (50, 91), (91, 50), (97, 13)])
@pytest.mark.parametrize("taper", [False, True])
def test_hyper_attention_is_the_estimate(length: int, keys: int, taper: bool):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 8, generator=generator) for n in (length, keys, keys))
    options = {"block_size": 16, "sample_size": 8, "num_projections": 4, "min_seq_len": 32, "seed": 5, "taper": taper}
    found, want = (hyper_attention(q, k, v, **options, backend=name) for name in ("portable", "reference"))
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)


def test_hyper_attention_refuses_causal_estimates():
    q = torch.zeros(1, 1, 40, 8)
    with pytest.raises(ValueError, match="a causal mask over 40 tokens, more than min_seq_len 32"):
        hyper_attention(q, q, q, causal=True, min_seq_len=32, backend="portable")
    assert hyper_attention(q, q, q, causal=True, min_seq_len=40, backend="portable").shape == q.shape


def test_using_goes_before_the_environment_and_after_an_argument(monkeypatch: pytest.MonkeyPatch):
    backends = {name: dispatch.Backend(lambda x, name=name: name) for name in "abc"}
    monkeypatch.setenv("XT_BACKEND", "b")
    x = torch.zeros(1)
    with dispatch.using("c"):
        assert dispatch.call("op", backends, None, x) == "c"
        assert dispatch.call("op", backends, "a", x) == "a"
    assert dispatch.call("op", backends, None, x) == "b"
