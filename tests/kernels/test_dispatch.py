import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from xt_kernels import dispatch
from xt_kernels.dispatch import Backend
from xt_kernels.hyper_attention import hyper_attention
from xt_kernels.selective_scan import selective_scan, selective_scan_channels_last
from xt_kernels.window_attention import window_attention


def short(x: Tensor) -> str | None:
    return f"{len(x)} rows, at most 2" if len(x) > 2 else None


BACKENDS = {
    "gpu": Backend(lambda x: "gpu", devices=("cuda",)),
    "fast": Backend(lambda x: "fast", short),
    "plain": Backend(lambda x: "plain"),
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("XT_BACKEND", raising=False)
    dispatch._tell.cache_clear()


def call(rows: int = 1, asked: str | None = None, device: str = "cpu") -> str:
    return dispatch.call("op", BACKENDS, asked, torch.zeros(rows, device=device))


def test_argument_wins_over_environment_and_that_over_the_default(monkeypatch: pytest.MonkeyPatch):
    assert call() == "fast"
    monkeypatch.setenv("XT_BACKEND", "plain")
    assert call() == "plain"
    assert call(asked="fast") == "fast"
    monkeypatch.setenv("XT_BACKEND", "")
    assert call() == "fast"


def test_unknown_names_raise_and_say_where_they_stand(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match=r"op has no backend 'x' \(from backend\); known: fast, gpu, plain"):
        call(asked="x")
    monkeypatch.setenv("XT_BACKEND", "y")
    with pytest.raises(ValueError, match=r"op has no backend 'y' \(from XT_BACKEND\)"):
        call()
    q = torch.zeros(1, 1, 2, 4)
    with pytest.raises(ValueError, match="hyper_attention has no backend 'y'"):
        hyper_attention(q, q, q)
    u = torch.zeros(1, 2, 3)
    with pytest.raises(ValueError, match="selective_scan has no backend 'y'"):
        selective_scan(u, u, torch.zeros(2, 1), torch.zeros(1, 1, 3), torch.zeros(1, 1, 3))


def test_a_backend_asked_for_by_name_is_never_replaced(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match=r"'fast' \(from backend\) cannot take this: 3 rows, at most 2; ask for"):
        call(3, "fast")
    with pytest.raises(ValueError, match="runs on cuda, and the tensors are on cpu"):
        call(asked="gpu")
    monkeypatch.setenv("XT_BACKEND", "fast")
    with pytest.raises(ValueError, match=r"\(from XT_BACKEND\) cannot take this"):
        call(3)


def test_an_automatic_choice_is_logged_once(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert call(1) == "fast"
            assert call(3) == "plain"
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "op on cpu: backend fast"),
        ("WARNING", "op on cpu: backend plain instead of a faster one (fast: 3 rows, at most 2)"),
    ]


def test_the_default_is_that_of_the_device_and_none_is_an_error():
    assert call(device="meta") == "fast"
    with pytest.raises(ValueError, match=r"no backend can take this on meta \(none runs there\)"):
        dispatch.call("op", {"gpu": BACKENDS["gpu"]}, None, torch.zeros(1, device="meta"))
    with pytest.raises(ValueError, match=r"on cpu \(fast: 3 rows, at most 2\)"):
        dispatch.call("op", {"fast": BACKENDS["fast"]}, None, torch.zeros(3))


def test_environment_reaches_the_ops(monkeypatch: pytest.MonkeyPatch):
    q, k, v = torch.randn(3, 1, 1, 40, 4, dtype=torch.float64)
    options = {"block_size": 8, "sample_size": 4, "min_seq_len": 8}
    want = hyper_attention(q, k, v, backend="reference", **options)
    monkeypatch.setenv("XT_BACKEND", "reference")
    assert torch.equal(hyper_attention(q, k, v, **options), want)


def scan(x: Tensor) -> Tensor:
    return selective_scan_channels_last(x, x.sigmoid(), -torch.ones(6, 3).double(), x[..., :3], x[..., 3:])


def attend(x: Tensor) -> Tensor:
    q = x.unflatten(-1, (2, 3)).transpose(1, 2)
    return hyper_attention(q, q.cos(), q, block_size=4, sample_size=2, min_seq_len=5)


def attend_in_windows(x: Tensor) -> Tensor:
    qkv = torch.stack([x, x.cos(), x], 2).unflatten(-1, (2, 3))
    return window_attention(qkv, torch.ones(2).double(), torch.zeros(2, 19, 19).double())


@pytest.mark.parametrize("op", [scan, attend, attend_in_windows])
def test_derivatives_of_functions_are_those_of_backward(op: Callable[[Tensor], Tensor], caplog: Any):
    """An operator of torch's gives a derivative of 0 in forward mode, without a word."""
    generator = torch.Generator().manual_seed(0)
    x, step = torch.randn(2, 2, 19, 6, generator=generator, dtype=torch.float64)
    at = x.clone().requires_grad_()
    op(at).square().sum().backward()
    slope = (at.grad * step).sum().item()
    with caplog.at_level(logging.INFO):
        _, tangent = torch.func.jvp(lambda x: op(x).square().sum(), (x,), (step,))
    assert tangent.item() == pytest.approx(slope, rel=1e-9)
    assert "do not see into it" in caplog.text
    gradient = torch.func.grad(lambda x: op(x).square().sum())(x)
    assert torch.allclose(gradient, at.grad, rtol=1e-9, atol=1e-12)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(op(forward_ad.make_dual(x, step)).square().sum())
    assert dual.tangent.item() == pytest.approx(slope, rel=1e-9)
    each = torch.vmap(lambda x: op(x[None])[0])(x)
    assert torch.allclose(each, op(x), rtol=1e-9, atol=1e-12)
    caplog.clear()
    dispatch._tell.cache_clear()
    with caplog.at_level(logging.INFO):
        op(x)
    assert "instead of a faster one" not in caplog.text
