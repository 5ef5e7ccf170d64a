"""The selective scan and window attention on a GPU: against fp64, then timed, with several sizes of programs.

    PYTHONPATH=kernels python kernels/benchmarks/gpu_scan.py [FOLDER]

Writes FOLDER/gpu_scan.json.
"""

import json
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from triton.testing import do_bench

from xt_kernels.selective_scan import selective_scan_channels_last, triton_impl
from xt_kernels.window_attention import window_attention

DIM, STATES = 1536, 16
SIZES = [(64, 64, 8192), (64, 32, 8192), (64, 64, 4096), (64, 64, 16384), (32, 64, 8192)]
"""Channels of a program, tokens of a chunk at least, programs that are enough: what the kernel has, and others."""
START = time.perf_counter()


def say(*words: object) -> None:
    print(f"[{time.perf_counter() - START:5.1f}s]", *words, flush=True)


def milliseconds(run: object) -> float:
    return do_bench(run, warmup=5, rep=40, return_mode="median")


def bandwidth() -> float:
    """Bytes a second that a copy moves, read and written."""
    x = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    y = torch.empty_like(x)
    return 2 * 2**30 / milliseconds(lambda: y.copy_(x)) * 1e3


def draw(length: int, dtype: torch.dtype, grad: bool, dim: int = DIM, groups: int = 1) -> list[Tensor]:
    g = torch.Generator("cuda").manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, device="cuda").to(dtype)

    rates = -torch.arange(1.0, STATES + 1, device="cuda").repeat(dim, 1)
    more = [torch.ones(dim, device="cuda"), normal(1, length, dim), torch.full((dim,), -3.0, device="cuda")]
    b, c = (normal(1, length, groups, STATES) for _ in range(2))
    tensors = [normal(1, length, dim), normal(1, length, dim), rates, b, c, *more]
    return [each.requires_grad_(grad) for each in tensors]


def results(tensors: list[Tensor], backend: str, reverse: bool) -> list[Tensor]:
    y, state = selective_scan_channels_last(
        *tensors, delta_softplus=True, return_last_state=True, reverse=reverse, backend=backend
    )
    g = torch.Generator("cuda").manual_seed(1)
    weights = torch.randn(y.shape, generator=g, device="cuda", dtype=torch.float64).to(y.dtype)
    return [y.detach(), state.detach(), *torch.autograd.grad((y * weights).sum() + state.sum(), tensors)]


def check_scan(facts: dict[str, object]) -> None:
    empty = torch.Tensor.new_empty
    torch.Tensor.new_empty = lambda *a, **k: empty(*a, **k).fill_(float("nan"))  # type: ignore[assignment]
    for length, dim, groups, reverse in [
        (1000, 192, 1, False),
        (1025, 100, 2, True),
        (70, 40, 1, False),
        (9000, 64, 1, True),
    ]:
        for dtype in (torch.float32, torch.bfloat16):
            tensors = draw(length, dtype, True, dim, groups)
            exact = [each.detach().double().requires_grad_() for each in tensors]
            want = results(exact, "chunked", reverse)
            found = results(tensors, "triton", reverse)
            errors = [float((a.double() - b).norm() / b.norm()) for a, b in zip(found, want, strict=True)]
            again = results(tensors, "triton", reverse)
            same = all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
            facts[f"scan {length} {dim} {groups} {dtype}"] = max(errors)
            say(
                "scan",
                length,
                dim,
                groups,
                reverse,
                dtype,
                f"worst error {max(errors):.1e}",
                "repeats" if same else "DIFFERS",
            )
    torch.Tensor.new_empty = empty


def time_scan(facts: dict[str, object], copied: float) -> None:
    for length in (4096, 16384, 131072):
        for dtype in (torch.float32, torch.bfloat16):
            tensors = draw(length, dtype, False)
            bound = 4 * tensors[0].nbytes / copied * 1e3
            for width, shortest, enough in SIZES:
                triton_impl.CHANNELS["forward"], triton_impl.SHORTEST, triton_impl.ENOUGH = width, shortest, enough
                run = lambda: selective_scan_channels_last(*tensors, delta_softplus=True, backend="triton")  # noqa: B023, E731
                spent = milliseconds(run)
                facts[f"forward {length} {dtype} width {width} chunk {shortest} programs {enough}"] = spent
                say("forward", length, dtype, width, shortest, enough, f"{spent:.3f} ms, {bound / spent:.0%} of bound")
            triton_impl.CHANNELS["forward"], triton_impl.SHORTEST, triton_impl.ENOUGH = SIZES[0]
            tensors = draw(length, dtype, True)
            for width in (16, 32):
                triton_impl.CHANNELS["backward"] = width
                y = selective_scan_channels_last(*tensors, delta_softplus=True, backend="triton")
                g = torch.randn_like(y)
                spent = milliseconds(lambda: torch.autograd.grad(y, tensors, g, retain_graph=True))  # noqa: B023
                facts[f"backward {length} {dtype} width {width}"] = spent
                say("backward", length, dtype, width, f"{spent:.3f} ms, bound {bound * 2:.3f}, {2 * bound / spent:.0%}")


def time_windows(facts: dict[str, object]) -> None:
    for windows, heads, dtype in [(512, 3, torch.bfloat16), (32, 12, torch.bfloat16), (512, 3, torch.float32)]:
        g = torch.Generator("cuda").manual_seed(0)
        qkv = torch.randn(windows, 256, 3, heads, 32, generator=g, device="cuda").to(dtype).requires_grad_()
        scale = torch.full((heads,), 10.0, device="cuda", requires_grad=True)
        bias = torch.randn(heads, 256, 256, generator=g, device="cuda").to(dtype).requires_grad_()
        for backend in ("triton", "blocked"):
            with torch.no_grad():
                forward = milliseconds(lambda: window_attention(qkv, scale, bias, backend=backend))  # noqa: B023
            out = window_attention(qkv, scale, bias, backend=backend)
            grad = torch.randn_like(out)
            back = milliseconds(lambda: torch.autograd.grad(out, (qkv, scale, bias), grad, retain_graph=True))  # noqa: B023
            facts[f"windows {windows} {heads} {dtype} {backend}"] = [forward, back]
            say("windows", windows, heads, dtype, backend, f"forward {forward:.3f} ms, backward {back:.3f} ms")


def main() -> None:
    facts: dict[str, object] = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "date": time.strftime("%F"),
    }
    copied = bandwidth()
    facts["bandwidth"] = copied
    say(facts)
    check_scan(facts)
    time_windows(facts)
    time_scan(facts, copied)
    if len(sys.argv) > 1:
        (Path(sys.argv[1]) / "gpu_scan.json").write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
