import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from triton_compile import needs_interpreter, recorded

from xt_kernels import dispatch
from xt_kernels.window_attention import interface, ops, window_attention

SHAPES = [(8, 16, 3, 8), (2, 64, 2, 32), (2, 100, 1, 24), (1, 1, 2, 5), (2, 256, 2, 32)]
"""Windows, tokens, heads, channels; the last needs several blocks in backward."""
TILES = [(3, 49, 2, 17), (4, 144, 1, 32), (2, 33, 17, 48), (1, 200, 1, 64), (2, 30, 1, 100)]
"""Shapes whose tiles have other sizes, and are filled in part."""


def draw(shape: tuple[int, int, int, int], dtype: torch.dtype = torch.float64, device: str = "cpu") -> list[Tensor]:
    windows, tokens, heads, dim = shape
    g = torch.Generator().manual_seed(sum(shape))
    tensors = [
        torch.randn(windows, tokens, 3, heads, dim, generator=g, dtype=torch.float64),
        torch.rand(heads, generator=g, dtype=torch.float64) * 5,
        torch.randn(heads, tokens, tokens, generator=g, dtype=torch.float64),
    ]
    return [t.to(device, dtype).requires_grad_() for t in tensors]


def masked(shape: tuple[int, int, int, int], device: str = "cpu") -> tuple[Tensor, Tensor]:
    windows, tokens, *_ = shape
    g = torch.Generator().manual_seed(1)
    masks = -100 * (torch.rand(2, tokens, tokens, generator=g) > 0.5).double()
    kinds = torch.tensor([2, 0, 1, 1] if windows % 4 == 0 else [1, 2] if windows % 2 == 0 else [2])
    return masks.to(device), kinds.to(device)


def results(tensors: list[Tensor], masks: Tensor | None, kinds: Tensor | None, backend: str | None) -> list[Tensor]:
    out = window_attention(*tensors, masks, kinds, backend=backend)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return [out.detach(), *torch.autograd.grad(out, tensors, weights.to(out))]


@pytest.mark.parametrize(
    ("backend", "shape"), [*(("blocked", each) for each in SHAPES), ("numba", SHAPES[3]), ("numba", TILES[0])]
)
@pytest.mark.parametrize("shifted", [False, True])
def test_backends_equal_the_reference_with_all_gradients(backend: str, shape: tuple[int, int, int, int], shifted: bool):
    tensors, (masks, kinds) = draw(shape), masked(shape) if shifted else (None, None)
    want = results(tensors, masks, kinds, "reference")
    for a, b in zip(results(tensors, masks, kinds, backend), want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES + TILES)
@pytest.mark.parametrize("shifted", [False, True])
def test_numba_in_single_precision(shape: tuple[int, int, int, int], shifted: bool):
    low, (masks, kinds) = draw(shape, torch.float32), masked(shape) if shifted else (None, None)
    want = results([t.detach().double().requires_grad_() for t in low], masks, kinds, "reference")
    for a, b in zip(results(low, masks, kinds, "numba"), want, strict=True):
        assert (a.double() - b).norm() <= 2e-6 * b.norm().clamp(min=1e-2)


@pytest.mark.parametrize(
    ("backend", "dtype", "tolerance"),
    [("blocked", torch.float32, 1e-5), ("blocked", torch.bfloat16, 2e-2), ("numba", torch.bfloat16, 5e-3), ("numba", torch.float16, 4e-4)],
)  # fmt: skip
def test_lower_precision_stays_near_fp64(backend: str, dtype: torch.dtype, tolerance: float):
    shape = SHAPES[1]
    low, (masks, kinds) = draw(shape, dtype), masked(shape)
    want = results([t.detach().double().requires_grad_() for t in low], masks, kinds, "reference")
    for a, b in zip(results(low, masks, kinds, backend), want, strict=True):
        assert a.dtype == dtype
        assert (a.double() - b).norm() / b.norm() <= tolerance


def test_which_backend_a_cpu_gets(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    for dtype, dim in ((torch.float32, 32), (torch.bfloat16, 32), (torch.float32, 136)):
        dispatch._tell.cache_clear()
        with caplog.at_level("INFO", "xt_kernels"):
            window_attention(*(t.detach() for t in draw((1, 4, 1, dim), dtype)))
    monkeypatch.setitem(sys.modules, "xt_kernels.window_attention.numba_impl", None)
    dispatch._tell.cache_clear()
    window_attention(*(t.detach() for t in draw((1, 4, 1, 32), torch.float32)))
    told = [record.getMessage().split("backend ")[1] for record in caplog.records]
    assert told.pop().startswith("blocked instead of a faster one (numba: numba cannot be used (")
    assert told == [
        "numba",
        "numba",
        "blocked instead of a faster one (numba: heads have 136 channels, more than 128)",
    ]


@pytest.mark.parametrize("backend", ["blocked", "numba"])
def test_gradients_and_operators_are_sound(backend: str):
    shape = (2, 6, 2, 3)
    tensors, (masks, kinds) = draw(shape), masked(shape)
    assert torch.autograd.gradcheck(lambda *t: window_attention(*t, masks, kinds, backend=backend), tensors)
    for dtype in (torch.float64, torch.bfloat16):
        given = [t.detach().to(dtype).requires_grad_() for t in tensors]
        torch.library.opcheck(ops._forward, (*given, masks, kinds, backend))


def test_threads_change_nothing_and_forked_processes_have_their_own():
    tensors, (masks, kinds) = draw((8, 256, 3, 32), torch.float32), masked((8, 256, 3, 32))
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(results(tensors, masks, kinds, "numba"))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("place", ["bias", "mask"])
def test_minus_infinity_hides_a_token(place: str):
    shape = (2, 20, 2, 8)
    qkv, scale, bias = draw(shape, torch.float32)
    hidden = torch.zeros(1, 20, 20)
    hidden[0, :, 7] = -torch.inf
    added = (bias + hidden, None, None) if place == "bias" else (bias, hidden, torch.tensor([1]))
    got = window_attention(qkv, scale, *added, backend="numba")
    rest = [n for n in range(20) if n != 7]
    without = window_attention(qkv[:, rest], scale, bias[:, rest][..., rest], backend="reference")
    torch.testing.assert_close(got[:, rest], without, rtol=1e-5, atol=1e-5)
    (grad,) = torch.autograd.grad(got.square().sum(), qkv)
    assert not grad[:, 7, 1:].any()
    assert grad.isfinite().all()


@pytest.mark.parametrize("name", ["q", "k", "v", "bias"])
def test_what_is_not_a_number_stays_none(name: str):
    shape = (4, 40, 2, 32)
    qkv, scale, bias = (t.detach() for t in draw(shape, torch.float32))
    if name == "bias":
        bias[1, 3, 5] = torch.nan
    else:
        qkv[2, 39, "qkv".index(name), 1, 31] = torch.nan
    want, got = (window_attention(qkv, scale, bias, backend=each).isnan() for each in ("reference", "numba"))
    assert want.any()
    assert torch.equal(got, want)


def test_logits_as_large_as_they_get():
    qkv, _, bias = draw((2, 256, 2, 32), torch.float32)
    qkv = torch.cat((qkv[:, :, :1], qkv[:, :, :1], qkv[:, :, 2:]), 2).detach()  # each query is its own key
    tensors = [qkv.requires_grad_(), torch.full((2,), 100.0, requires_grad=True), (16 * bias).detach().requires_grad_()]
    want = results([t.detach().double().requires_grad_() for t in tensors], None, None, "reference")
    for a, b in zip(results(tensors, None, None, "numba"), want, strict=True):
        assert (a.double() - b).norm() <= 5e-5 * b.norm()


@pytest.mark.slow
@pytest.mark.parametrize("features", ["", "+avx2,+fma"])
def test_other_processors_get_the_same(features: str):
    if features and platform.machine() != "x86_64":
        return  # instructions of others
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_window_attention import *\n"
        "for shape in SHAPES + TILES: test_numba_in_single_precision(shape, True)"
    )
    path = os.pathsep.join([str(Path(__file__).parents[2] / "kernels"), str(Path(__file__).parent), *sys.path])
    environment = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features, "PYTHONPATH": path}
    argv = [sys.executable, "-c", code, str(Path(__file__).parent)]
    told = subprocess.run(argv, env=os.environ | environment, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr[-3000:]


def test_torch_compile_sees_one_graph():
    shape = SHAPES[1]
    tensors, (masks, kinds) = draw(shape, torch.float32), masked(shape)
    step = torch.compile(lambda *t: window_attention(*t, masks, kinds).sin(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(step(*tensors), window_attention(*tensors, masks, kinds).sin())
    step(*tensors).sum().backward()
    got = [t.grad for t in tensors]
    want = torch.autograd.grad(window_attention(*tensors, masks, kinds).sin().sum(), tensors)
    torch.testing.assert_close(got, list(want))


@pytest.mark.parametrize("backend", ["blocked", "numba"])
def test_inputs_that_are_no_own_memory_and_empty_rows(backend: str):
    shape = SHAPES[0]
    qkv, scale, bias = draw(shape)
    wide = torch.cat((qkv, qkv), -1)[..., : shape[-1]]
    strided = results([wide.detach().requires_grad_(), scale, bias], None, None, backend)
    for a, b in zip(strided, results([qkv, scale, bias], None, None, backend), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        qkv[0, 0] = 0  # the direction of nothing is nothing
        assert window_attention(qkv, scale, bias, backend=backend).isfinite().all()


@pytest.mark.parametrize("shifted", [False, True])
def test_blocked_is_fused_with_gradients_too(shifted: bool):
    tensors, (masks, kinds) = draw(SHAPES[1], torch.float32), masked(SHAPES[1]) if shifted else (None, None)
    with torch.profiler.profile() as profile:
        window_attention(*tensors, masks, kinds, backend="blocked")
    names = {event.key for event in profile.key_averages()}
    assert any("flash_attention" in name for name in names)
    assert "aten::bmm" not in names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qkv": torch.zeros(2, 4, 2, 3, 8)}, r"qkv is \(2, 4, 2, 3, 8\); it must be \(W, N, 3, H, D\)"),
        ({"scale": torch.zeros(2)}, r"scale is \(2,\); with qkv \(4, 4, 3, 3, 8\) it must be \(3,\)"),
        ({"bias": torch.zeros(3, 4, 5)}, r"bias is \(3, 4, 5\)"),
        ({"masks": torch.zeros(1, 4, 4)}, "masks and kinds must be given together"),
        ({"masks": torch.zeros(1, 4, 4), "kinds": torch.zeros(3, dtype=torch.long)}, "must divide the 4 windows"),
        ({"masks": torch.zeros(1, 5, 4), "kinds": torch.zeros(2, dtype=torch.long)}, r"masks is \(1, 5, 4\)"),
        ({"scale": torch.zeros(3, dtype=torch.long)}, "scale is torch.int64"),
        ({"backend": "none"}, "window_attention has no backend 'none'"),
        ({"backend": "triton"}, "runs on cuda, and the tensors are on cpu"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, object], message: str):
    right = {"qkv": torch.zeros(4, 4, 3, 3, 8), "scale": torch.zeros(3), "bias": torch.zeros(3, 4, 4)}
    with pytest.raises(ValueError, match=message):
        window_attention(**(right | change))


INTERPRETED = """
import torch
from xt_kernels.window_attention import reference, triton_impl
empty, like = torch.Tensor.new_empty, torch.empty_like
poison = lambda x: x.fill_(float("nan")) if x.is_floating_point() and x.numel() else x
torch.Tensor.new_empty = lambda *args, **kwargs: poison(empty(*args, **kwargs))
torch.empty_like = lambda *args, **kwargs: poison(like(*args, **kwargs))
g = torch.Generator().manual_seed(0)
for windows, tokens, heads, dim, kinds in [(20, 16, 1, 8, [2, 0, 1, 1]), (2, 100, 2, 24, [1, 2]), (1, 70, 1, 40, None)]:
    qkv = torch.randn(windows, tokens, 3, heads, dim, generator=g)
    scale, bias = torch.rand(heads, generator=g) * 5, torch.randn(heads, tokens, tokens, generator=g)
    masks = None if kinds is None else -100 * (torch.rand(2, tokens, tokens, generator=g) > 0.5).float()
    kinds = None if kinds is None else torch.tensor(kinds)
    grad = torch.randn(windows, tokens, heads, dim, generator=g)
    exact = [t.double().requires_grad_() for t in (qkv, scale, bias)]
    want = reference.window_attention(*exact, masks, kinds)
    wanted = [want.detach(), *torch.autograd.grad(want, exact, grad.double())]
    out, lse = triton_impl.forward(qkv, scale, bias, masks, kinds)
    got = [out, *triton_impl.backward(grad, qkv, scale, bias, masks, kinds, out, lse)]
    for a, b in zip(got, wanted):
        assert (a.double() - b).norm() <= 1e-4 * b.norm().clamp(min=1e-2), (tokens, a, b)
"""


@needs_interpreter
def test_triton_equals_reference_under_its_interpreter():
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("shifted", [False, True])
def test_triton_on_a_gpu(shape: tuple[int, int, int, int], dtype: torch.dtype, tolerance: float, shifted: bool):
    low, (masks, kinds) = draw(shape, dtype, "cuda"), masked(shape, "cuda") if shifted else (None, None)
    want = results([t.detach().double().requires_grad_() for t in low], masks, kinds, "reference")
    for a, b in zip(results(low, masks, kinds, "triton"), want, strict=True):
        assert a.dtype == dtype
        assert (a.double() - b).norm() <= tolerance * b.norm().clamp(min=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_without_a_gpu_registers_suffice(dtype: torch.dtype):
    from xt_kernels.window_attention import triton_impl

    qkv, scale, bias = (t.detach() for t in draw((4, 256, 6, 32), dtype))
    masks, kinds = torch.zeros(3, 256, 256, dtype=dtype), torch.tensor([0, 1, 2, 3])
    with recorded() as launches:
        out, lse = triton_impl.forward(qkv, scale.float(), bias, masks, kinds)
        triton_impl.backward(out, qkv, scale.float(), bias, masks, kinds, out, lse)
    assert len(launches) == 4
    for launch in launches:
        for capability in (80, 90, 100):
            compiled = launch.compile(capability)
            # Backward in fp32 spills; half the blocks would not, and take twice as long.
            spilt = 512 if dtype == torch.float32 and compiled.name.startswith("_backward") else 16
            assert compiled.resources()["STACK"] <= spilt, (compiled.name, capability)


def test_a_compiler_sees_one_graph_with_triton_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(interface.BACKENDS, "triton", replace(interface.BACKENDS["triton"], devices=("cpu",)))
    seen: list[str] = []

    def note(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return lambda *args: (torch.zeros(2, 64, 2, 32),)

    tensors = [t.detach() for t in draw(SHAPES[1], torch.float32)]
    torch.compile(lambda *t: window_attention(*t), fullgraph=True, backend=note)(*tensors)
    assert "xt.window_attention.default" in seen


@pytest.mark.parametrize("backend", ["numba", "blocked", "reference"])
@pytest.mark.parametrize("kind", [-1, 2, 1_000_000])
def test_a_kind_without_a_mask_is_refused(backend: str, kind: int):
    """The kernel would read what lies beside the masks, or nothing that is mapped."""
    qkv, scale, bias = torch.zeros(4, 9, 3, 2, 8), torch.ones(2), torch.zeros(2, 9, 9)
    masks, kinds = torch.zeros(1, 9, 9), torch.tensor([0, kind])
    with pytest.raises(ValueError, match=f"kinds holds {kind}; there are masks for 1 to 1"):
        window_attention(qkv, scale, bias, masks, kinds, backend=backend)
