import multiprocessing
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from xt_kernels import dispatch
from xt_kernels.selective_scan import ops, selective_scan, selective_scan_channels_last


def inputs(length: int, dtype: torch.dtype = torch.float64, groups: int | None = None, seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    batch, dim, states = 2, 6, 4

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    b_shape = (batch, states, length) if groups is None else (batch, groups, states, length)
    tensors = [
        draw(batch, dim, length),
        draw(batch, dim, length),
        -draw(dim, states).exp(),
        draw(*b_shape),
        draw(*b_shape),
        draw(dim),
        draw(batch, dim, length),
        draw(dim),
    ]
    return [t.to(dtype).requires_grad_() for t in tensors]


def run(tensors: list[Tensor], backend: str | None) -> tuple[Tensor, Tensor]:
    u, delta, A, B, C, D, z, bias = tensors
    return selective_scan(u, delta, A, B, C, D, z, bias, True, return_last_state=True, backend=backend)


def results(
    length: int, backend: str, dtype: torch.dtype = torch.float64, groups: int | None = None, reverse: bool = False
) -> list[Tensor]:
    """Output, last state and all gradients, that of the initial state too."""
    tensors = inputs(length, dtype, groups)
    start = torch.linspace(-1, 1, 48, dtype=torch.float64).view(2, 6, 4).to(dtype).requires_grad_()
    y, state = selective_scan(*tensors, True, start, return_last_state=True, reverse=reverse, backend=backend)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y).sin().to(dtype)
    grads = torch.autograd.grad((y * weights).sum() + state.cos().sum(), [*tensors, start])
    return [y.detach(), state.detach(), *grads]


@pytest.mark.parametrize("length", [1, 15, 16, 17, 63, 500, 1025])
@pytest.mark.parametrize("groups", [None, 1, 3])
@pytest.mark.parametrize("reverse", [False, True])
def test_backends_equal_reference_with_all_gradients(length: int, groups: int | None, reverse: bool):
    if reverse and length > 500:
        return  # said by the other direction
    want = results(length, "reference", groups=groups, reverse=reverse)
    for a, b in zip(results(length, "chunked", groups=groups, reverse=reverse), want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    for a, b in zip(results(length, "numba", torch.float32, groups, reverse), want, strict=True):
        assert (a.double() - b).norm() <= 1e-5 * b.norm()


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """So many threads in the test."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 3], indirect=True)
@pytest.mark.parametrize("dim", [5, 40, 300])
@pytest.mark.usefixtures("threads")
def test_blocks_of_channels_and_threads_change_nothing(dim: int):
    g = torch.Generator().manual_seed(dim)
    u, delta, z = (torch.randn(2, 70, dim, generator=g) for _ in range(3))
    B, C = (torch.randn(2, 70, 3, generator=g) for _ in range(2))
    tensors = [u, delta, -torch.rand(dim, 3, generator=g), B, C, torch.randn(dim, generator=g), z]
    found = []
    for backend, dtype in (("numba", torch.float32), ("reference", torch.float64)):
        leaves = [t.to(dtype).requires_grad_() for t in tensors]
        y = selective_scan_channels_last(*leaves, delta_softplus=True, backend=backend)
        found.append([y, *torch.autograd.grad(y.sin().sum(), leaves)])
    for a, b in zip(*found, strict=True):
        assert (a.double() - b).norm() <= 1e-5 * b.norm()


@pytest.mark.parametrize("threads", [2], indirect=True)
@pytest.mark.usefixtures("threads")
def test_numba_serves_several_threads_and_a_forked_process_at_once():
    tensors = [t.detach() for t in inputs(300, torch.float32)]
    want = run(tensors, "numba")[0]
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(y, want) for y, _ in pool.map(lambda _: run(tensors, "numba"), range(8)))
    process = multiprocessing.get_context("fork").Process(
        target=lambda: os._exit(not torch.equal(run(tensors, "numba")[0], want))
    )
    process.start()
    process.join(60)
    assert process.exitcode == 0


def test_without_numba_another_backend_takes_over(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setitem(sys.modules, "xt_kernels.selective_scan.numba_impl", None)
    dispatch._tell.cache_clear()
    tensors = [t.detach() for t in inputs(9, torch.float32)]
    assert torch.equal(run(tensors, None)[0], run(tensors, "chunked")[0])
    assert "backend chunked instead of a faster one (numba: numba cannot be used" in caplog.text
    with pytest.raises(ValueError, match=r"backend 'numba' .* cannot take this: numba cannot be used"):
        run(tensors, "numba")


def test_operators_are_sound_and_torch_compile_sees_one_graph():
    tensors = inputs(37, torch.float32)
    last = [t.transpose(1, 2).detach().requires_grad_() if t.ndim == 3 else t for t in tensors]
    u, delta, A, B, C, D, z, bias = last
    torch.library.opcheck(
        ops._forward, (u, delta, A, B.unsqueeze(2), C.unsqueeze(2), D, z, bias, True, None, False, True, "numba")
    )
    step = torch.compile(lambda *t: selective_scan_channels_last(*t, True).sin(), fullgraph=True, backend="aot_eager")
    want = selective_scan_channels_last(*last, True).sin()
    torch.testing.assert_close(step(*last), want)
    torch.testing.assert_close(torch.autograd.grad(step(*last).sum(), last), torch.autograd.grad(want.sum(), last))


@pytest.mark.parametrize("backend", ["chunked", "numba"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_lower_precision_stays_near_fp64(backend: str, dtype: torch.dtype, tolerance: float):
    low = [t.detach() for t in inputs(700, dtype)]
    want, _ = run([t.double() for t in low], "reference")
    got, state = run(low, backend)
    assert got.dtype == dtype
    assert state.dtype == torch.float32
    assert (got.double() - want).norm() / want.norm() <= tolerance


@pytest.mark.parametrize("backend", ["chunked", "numba"])
@pytest.mark.parametrize("scale", [5.0, 50.0, 1000.0])
def test_large_steps_give_no_nan(backend: str, scale: float):
    tensors = inputs(300, torch.float32)
    tensors[1] = (tensors[1].detach().abs() * scale).requires_grad_()
    y, _ = run(tensors, backend)
    y.sum().backward()
    want, _ = run(tensors, "reference")
    torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-4)
    assert all(t.grad.isfinite().all() for t in tensors)


def test_state_carries_over_a_cut():
    u, delta, A, B, C, *_ = inputs(400)
    whole = selective_scan(u, delta, A, B, C, delta_softplus=True)
    first, state = selective_scan(
        u[..., :133], delta[..., :133], A, B[..., :133], C[..., :133], delta_softplus=True, return_last_state=True
    )
    second = selective_scan(
        u[..., 133:], delta[..., 133:], A, B[..., 133:], C[..., 133:], delta_softplus=True, initial_state=state
    )
    torch.testing.assert_close(torch.cat([first, second], -1), whole)


def test_channels_last_is_the_same_op_and_takes_views():
    u, delta, A, B, C, D, z, bias = inputs(77)
    last = [x.transpose(1, 2) for x in (u, delta, B, C, z)]
    got = selective_scan_channels_last(last[0], last[1], A, last[2], last[3], D, last[4], bias, True)
    torch.testing.assert_close(got.transpose(1, 2), run([u, delta, A, B, C, D, z, bias], "chunked")[0])


@pytest.mark.parametrize("backend", ["chunked", "numba"])
def test_gradcheck(backend: str):
    tensors = [t[:1, ..., :9] if t.ndim == 3 else t for t in inputs(9)]
    leaves = [t.detach().requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(lambda *ts: run(list(ts), backend), leaves, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_may_lie_apart(dtype: torch.dtype):
    g = torch.Generator().manual_seed(3)
    sizes = [530, 530, 530, 3, 3]
    A = -torch.rand(530, 3, generator=g, dtype=dtype)
    # Every tensor is a part of a wider one, each of another width; so is the gradient that comes in.
    wide = [torch.randn(2, 45, size + 5 * i, generator=g, dtype=dtype) for i, size in enumerate([*sizes, 530])]
    found = []
    for backend in ("numba", "reference"):
        leaves = [each.clone().requires_grad_() for each in wide[:5]]
        u, delta, z, B, C = (each[..., each.shape[-1] - size :] for each, size in zip(leaves, sizes, strict=True))
        y = selective_scan_channels_last(u, delta, A, B, C, z=z, delta_softplus=True, backend=backend)
        found.append([y, *torch.autograd.grad(y, leaves, wide[5][..., :530])])
    for a, b in zip(*found, strict=True):
        assert (a - b).norm() <= (1e-5 if dtype == torch.float32 else 1e-13) * b.norm()


@pytest.mark.parametrize("name", ["u", "delta", "A"])
def test_what_is_not_a_number_stays_none(name: str):
    tensors = [t.detach() for t in inputs(20, torch.float32)]
    if name == "A":
        tensors[2][3, 1] = torch.nan
    else:
        tensors[0 if name == "u" else 1][1, 3, 7] = torch.nan
    want, got = (run(tensors, backend)[0].isnan() for backend in ("reference", "numba"))
    assert want.any()
    assert torch.equal(got, want)


@pytest.mark.slow
@pytest.mark.parametrize("features", ["", "+avx2,+fma"])
def test_other_processors_get_the_same(features: str):
    if features and platform.machine() != "x86_64":
        return  # instructions of others
    code = (
        "import torch; from xt_kernels.selective_scan import selective_scan_channels_last as scan\n"
        "u = torch.linspace(-3, 3, 3 * 70).view(1, 3, 70); A = -torch.linspace(0, 200, 140).view(70, 2); b = u[..., :2]\n"
        "A[5, 1], A[9, 0] = torch.nan, 100.0\n"
        "y, want = (scan(u, u, A, b, b, z=u, delta_softplus=True, backend=x) for x in ('numba', 'reference'))\n"
        "assert want[..., 5].isnan().all() and want[0, 2, 9].isinf(), want\n"
        "torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-5, equal_nan=True)"
    )
    path = os.pathsep.join([str(Path(__file__).parents[2] / "kernels"), *sys.path])
    environment = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features, "PYTHONPATH": path}
    told = subprocess.run([sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr[-3000:]


@pytest.mark.parametrize("backend", ["chunked", "numba"])
def test_memory_is_recomputed_not_kept(backend: str):
    kept: list[int] = []
    tensors = inputs(4096, torch.float32)

    def pack(t: Tensor) -> Tensor:
        kept.append(t.numel())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        run(tensors, backend)
    # B·L·D·N numbers would be 4 times as many as B·L·D; what is kept are a few of the latter.
    assert max(kept) <= 2 * 6 * 4096


CASES = [
    ("u", lambda t: t[0], "u is .*must be"),
    ("u", lambda t: t[..., :0], "u is .*no size of 0"),
    ("delta", lambda t: t[:, :, :3], r"delta is \(2, 6, 3\); with u \(2, 6, 4\) it must be \(2, 6, 4\)"),
    ("delta", lambda t: t[:1], "delta is"),
    ("A", lambda t: t[0], r"A is \(4,\)"),
    ("A", lambda t: t[:5], r"A is \(5, 4\); .* must be \(6, 4\)"),
    ("A", lambda t: t.sum(), "0 states"),
    ("A", lambda t: t[:, :3], r"B is \(2, 4, 4\); .* must be \(2, 3, 4\)"),
    ("B", lambda t: t[:, :3], "B is"),
    ("B", lambda t: t[..., :3], "B is"),
    ("B", lambda t: t[0], "B is"),
    ("B", lambda t: t[:, None].expand(2, 4, 4, 4), "4 groups .* do not fit 6 channels"),
    ("C", lambda t: t[:, :3], "C is"),
    ("C", lambda t: t[:, None], "C is"),
    ("D", lambda t: t[:5], r"D is \(5,\)"),
    ("D", lambda t: t[:1], r"D is \(1,\)"),
    ("z", lambda t: t[:, :1], "z is"),
    ("delta_bias", lambda t: t[None], "delta_bias is"),
    ("initial_state", lambda t: t[:1], r"initial_state is \(1, 6, 4\)"),
    ("delta", lambda t: t.long(), "delta is torch.int64"),
    ("u", lambda t: t.to(torch.complex64), "u is torch.complex64"),
    ("C", lambda t: t.to("meta"), "C is torch.float64 on meta"),
]


@pytest.mark.parametrize(("name", "spoil", "message"), CASES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_wrong_sizes_and_dtypes_are_said_in_one_line(name: str, spoil, message: str, channels_last: bool):
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
    tensors = {key: t.detach() for key, t in zip(names, inputs(4), strict=True)}
    tensors["initial_state"] = torch.zeros(2, 6, 4)
    tensors[name] = spoil(tensors[name])
    op = selective_scan
    if channels_last:
        # The same mistake in the other order of axes; sizes in the message differ.
        op, message = selective_scan_channels_last, "selective_scan: "
        for key in ("u", "delta", "B", "C", "z"):
            tensors[key] = tensors[key].movedim(-1, min(1, tensors[key].ndim - 1))
    with pytest.raises(ValueError, match=message) as caught:
        op(**tensors)
    assert "\n" not in str(caught.value)


def test_dtypes_may_differ():
    tensors = inputs(20, torch.float32)
    want, _ = run(tensors, "chunked")
    tensors[4] = tensors[4].detach().double()
    torch.testing.assert_close(run(tensors, "chunked")[0], want)
