import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from triton_compile import needs_interpreter, recorded

from xt_kernels.window_attention import interface, ops, window_attention

SHAPES = [(8, 16, 3, 8), (2, 64, 2, 32), (2, 100, 1, 24), (1, 1, 2, 5), (2, 256, 2, 32)]
"""Windows, tokens, heads, channels; the last needs several blocks in backward."""


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


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shifted", [False, True])
def test_blocked_equals_reference_with_all_gradients(shape: tuple[int, int, int, int], shifted: bool):
    tensors, (masks, kinds) = draw(shape), masked(shape) if shifted else (None, None)
    want = results(tensors, masks, kinds, "reference")
    for a, b in zip(results(tensors, masks, kinds, "blocked"), want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_lower_precision_stays_near_fp64(dtype: torch.dtype, tolerance: float):
    shape = SHAPES[1]
    low, (masks, kinds) = draw(shape, dtype), masked(shape)
    want = results([t.detach().double().requires_grad_() for t in low], masks, kinds, "reference")
    for a, b in zip(results(low, masks, kinds, None), want, strict=True):
        assert a.dtype == dtype
        assert (a.double() - b).norm() / b.norm() <= tolerance


def test_gradients_and_operators_are_sound():
    shape = (2, 6, 2, 3)
    tensors, (masks, kinds) = draw(shape), masked(shape)
    assert torch.autograd.gradcheck(lambda *t: window_attention(*t, masks, kinds, backend="blocked"), tensors)
    torch.library.opcheck(ops._forward, (*tensors, masks, kinds, "blocked"))


def test_torch_compile_sees_one_graph():
    shape = SHAPES[1]
    tensors, (masks, kinds) = draw(shape, torch.float32), masked(shape)
    step = torch.compile(lambda *t: window_attention(*t, masks, kinds).sin(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(step(*tensors), window_attention(*tensors, masks, kinds).sin())
    step(*tensors).sum().backward()
    got = [t.grad for t in tensors]
    want = torch.autograd.grad(window_attention(*tensors, masks, kinds).sin().sum(), tensors)
    torch.testing.assert_close(got, list(want))


def test_inputs_that_are_no_own_memory_and_empty_rows():
    shape = SHAPES[0]
    qkv, scale, bias = draw(shape)
    wide = torch.cat((qkv, qkv), -1)[..., : shape[-1]]
    strided = results([wide.detach().requires_grad_(), scale, bias], None, None, "blocked")
    for a, b in zip(strided, results([qkv, scale, bias], None, None, "blocked"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        qkv[0, 0] = 0  # the direction of nothing is nothing
        assert window_attention(qkv, scale, bias).isfinite().all()


@pytest.mark.parametrize("shifted", [False, True])
def test_forward_is_fused_with_gradients_too(shifted: bool):
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
