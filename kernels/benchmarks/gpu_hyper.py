"""HyperAttention on a GPU: against fp64, then timed beside flash attention, with the best of several tile sizes.

    PYTHONPATH=kernels python kernels/benchmarks/gpu_hyper.py [FOLDER]

Ends within 100 s; what does not fit is said to be left out. Writes FOLDER/gpu_hyper.json.
"""

import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from xt_kernels.hyper_attention import hyper_attention, plain, triton_impl
from xt_kernels.hyper_attention.plan import Options
from xt_kernels.hyper_attention.triton_impl import Config

START = time.perf_counter()
HEADS, DIM = 6, 128
CANDIDATES = {
    "forward": [(128, 64, 8, 3), (128, 64, 8, 2), (64, 64, 4, 3), (64, 64, 4, 2), (128, 32, 8, 3), (64, 32, 4, 3)],
    "query": [(64, 64, 8, 2), (64, 64, 4, 2), (128, 64, 8, 2), (64, 32, 4, 2), (128, 32, 8, 2)],
    "sample": [(64, 64, 8, 2), (32, 64, 8, 2), (32, 64, 4, 2), (32, 128, 8, 2)],
    "key": [(32, 64, 8, 2), (64, 64, 8, 2), (64, 32, 4, 2), (32, 64, 4, 2)],
}


def left(until: float) -> bool:
    return time.perf_counter() - START < until


def say(*words: object) -> None:
    print(f"[{time.perf_counter() - START:5.1f}s]", *words, flush=True)


def tensors(length: int, dtype: torch.dtype, keys: int | None = None, heads: int = HEADS, dim: int = DIM) -> list:
    g = torch.Generator("cuda").manual_seed(length)
    if keys is None:  # as a model cuts them out of one projection
        joint = torch.randn(1, length, 3 * heads * dim, generator=g, device="cuda", dtype=dtype)
        found = [x.view(1, length, heads, dim).transpose(1, 2) for x in joint.chunk(3, -1)]
    else:
        found = [torch.randn(1, heads, n, dim, generator=g, device="cuda", dtype=dtype) for n in (length, keys, keys)]
    return found


def errors(length: int, keys: int | None, dtype: torch.dtype, causal: bool, dim: int, **more: int) -> dict[str, float]:
    """Compare with fp64 under the same order: relative errors of out, dq, dk, dv."""
    options = Options(causal, 64, 48, 7, 256, dim**-0.5, 3, False)
    options = replace(options, **more)
    q, k, v = tensors(length, dtype, keys, 2, dim)
    grad = torch.randn(q.shape, device="cuda", dtype=dtype)
    poison()
    order = triton_impl.sort(q, k, options)
    out, lse = triton_impl.attend(q, k, v, order, options)
    poison()
    grads = triton_impl.backward(grad, q, k, v, out, lse, order, options)
    again = triton_impl.backward(grad, q, k, v, out, lse, order, options)
    exact = [x.double() for x in (q, k, v)]
    want, sums = plain.attend(*exact, order, options)
    wants = plain.backward(grad.double(), *exact, want, sums, order, options)
    pairs = zip(("out", "dq", "dk", "dv"), (out, *grads), (want, *wants), strict=True)
    found = {name: float((got.double() - exact).norm() / exact.norm()) for name, got, exact in pairs}
    found["repeats"] = float(all(torch.equal(a, b) for a, b in zip(grads, again, strict=True)))
    same = plain.sort(q, k, options)
    found["order_differs"] = float((same != order).double().mean())
    return found


def poison() -> None:
    """Leave NaN in the memory that the next tensors get."""
    held = [torch.full((2**n,), float("nan"), device="cuda") for n in range(8, 24)]
    del held


CASES = {
    torch.bfloat16: [
        (1025, None, False, 128, {}),
        (777, 1500, False, 24, {"num_projections": 9}),
        (1100, None, True, 128, {}),
        (1023, None, False, 128, {"taper": True, "min_seq_len": 512}),
        (70000, None, False, 128, {"block_size": 256, "sample_size": 256}),
    ],
    torch.float32: [(1025, None, False, 128, {}), (1100, None, True, 128, {})],
    torch.float16: [(1025, None, False, 128, {})],
}
LIMITS = {torch.bfloat16: 2e-2, torch.float32: 2e-5, torch.float16: 4e-3}


def correctness(report: dict, dtypes: list[torch.dtype], until: float) -> bool:
    good = True
    for dtype in dtypes:
        for case in CASES[dtype]:
            if not left(until):
                say("left out:", dtype, *case)
                continue
            length, keys, causal, dim, more = case
            found = errors(length, keys, dtype, causal, dim, **more)
            fine = all(found[n] < LIMITS[dtype] for n in ("out", "dq", "dk", "dv")) and bool(found["repeats"])
            good &= fine
            say("ok " if fine else "BAD", dtype, *case, {k: f"{v:.1e}" for k, v in found.items()})
            report.setdefault("errors", []).append([str(dtype), *case, found])
    return good


def median(run: Callable[[], object], milliseconds: int = 100) -> float:
    return float(triton.testing.do_bench(run, warmup=20, rep=milliseconds, return_mode="median"))


def few(run: Callable[[], object], times: int = 2) -> float:
    """Time by events something so slow that the clocks are up after one call."""
    run()
    found = []
    for _ in range(times):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        stop.record()
        torch.cuda.synchronize()
        found.append(start.elapsed_time(stop))
    return statistics.median(found)


def tuned(report: dict, until: float) -> triton_impl.Configs:
    """Take for each kernel the fastest candidate at 131,072 tokens."""
    best = triton_impl.HOPPER
    options = Options(False, 256, 256, 7, 4096, DIM**-0.5, 0, False)
    q, k, v = tensors(131072, torch.bfloat16)
    order = triton_impl.sort(q, k, options)
    out, lse = triton_impl.attend(q, k, v, order, options)
    say("sort ms", round(median(lambda: triton_impl.sort(q, k, options)), 3))
    # Kernels one round after the other, so that a limit of time leaves some of each.
    rounds = itertools.zip_longest(*([(kernel, c) for c in tried] for kernel, tried in CANDIDATES.items()))
    times: dict[str, dict[str, float]] = {kernel: {} for kernel in CANDIDATES}
    for kernel, sizes in (each for group in rounds for each in group if each):
        if not left(until):
            say("left out of tuning:", kernel, sizes)
            continue
        configs = replace(triton_impl.HOPPER, **{kernel: Config(*sizes)})
        try:
            if kernel == "forward":
                spent = median(lambda c=configs: triton_impl.attend(q, k, v, order, options, c), 40)
            else:
                spent = median(lambda c=configs: triton_impl.backward(q, q, k, v, out, lse, order, options, c), 40)
        except Exception as error:  # a candidate may need more shared memory than there is
            say(kernel, sizes, "fails:", str(error).splitlines()[0][:100])
            continue
        times[kernel][str(sizes)] = spent
        if spent == min(times[kernel].values()):
            best = replace(best, **{kernel: Config(*sizes)})
    for kernel, found in times.items():
        say(kernel, {sizes: round(spent, 3) for sizes, spent in sorted(found.items(), key=lambda each: each[1])})
    report["tuning_ms"] = times
    report["best"] = str(best)
    say("best", best)
    return best


def with_gradient(attend: Callable[..., Tensor], inputs: list[Tensor]) -> Callable[[], object]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    grad = torch.randn_like(inputs[0])
    return lambda: torch.autograd.grad(attend(*leaves), leaves, grad)


def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(q, k, v)


def lengths(until: float) -> Iterator[int]:
    for length in (131072, 16384, 65536, 32768, 262144):
        if left(until):
            yield length
        else:
            say("left out:", length)


def timing(report: dict, until: float) -> None:
    say("tokens: hyper fwd, fwd+bwd ms | flash fwd, fwd+bwd ms | ratios | peak MB of hyper fwd+bwd, flash's")
    for length in lengths(until):
        inputs = tensors(length, torch.bfloat16)
        row: dict[str, float] = {}
        for name, attend in (("hyper", hyper_attention), ("flash", flash)):
            slow = name == "flash" and length > 32768
            with torch.no_grad():
                row[f"{name}_forward"] = (few if slow else median)(partial(attend, *inputs))
            if name == "hyper" or left(until):
                run = with_gradient(attend, inputs)
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
                row[f"{name}_both"] = few(run, 1) if slow else median(run)
                row[f"{name}_MB"] = (torch.cuda.max_memory_allocated() - before) / 1e6
        ratio = row["flash_forward"] / row["hyper_forward"]
        both = row.get("flash_both", float("nan")) / row["hyper_both"]
        say(f"{length:7d}:", {k: round(x, 3) for k, x in row.items()}, f"| {ratio:.1f}x {both:.1f}x")
        report.setdefault("timing_ms", {})[length] = row


def others(report: dict, until: float) -> None:
    """Time what users may also run: causal, fp32, tapered samples; and the exact kernel of cuDNN."""
    inputs, single = tensors(131072, torch.bfloat16), tensors(131072, torch.float32)
    tasks = {
        "causal bf16": lambda: hyper_attention(*inputs, causal=True),
        "fp32": lambda: hyper_attention(*single),
        "taper at 16384": lambda: hyper_attention(*(x[:, :, :16384] for x in inputs), taper=True),
    }
    found = {}
    with torch.no_grad():
        for name, run in tasks.items():
            if left(until):
                found[name] = median(run, 50)
        if left(until):
            try:
                with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                    found["cudnn sdpa"] = few(lambda: F.scaled_dot_product_attention(*inputs), 2)
            except RuntimeError as error:
                say("cudnn:", str(error).splitlines()[0])
    say("at 131072, ms:", {k: round(x, 3) for k, x in found.items()})
    report["others_ms"] = found


def main() -> None:
    """Run all, as far as time allows, and write what was found in any case."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("OUT", "."))
    report: dict = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__}
    say(report, torch.cuda.get_device_capability())
    try:
        report["correct"] = correctness(report, [torch.bfloat16], 30)
        triton_impl.HOPPER = tuned(report, 52)
        report["best_errors"] = errors(1025, None, torch.bfloat16, False, 128)
        say("best, errors:", report["best_errors"])
        timing(report, 72)
        report["correct"] &= correctness(report, [torch.float32, torch.float16], 78)
        others(report, 88)
    finally:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "gpu_hyper.json").write_text(json.dumps(report, indent=1))
    say("correct" if report.get("correct") else "NOT CORRECT")


if __name__ == "__main__":
    main()
