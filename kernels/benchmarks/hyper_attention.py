"""HyperAttention beside its peers: seconds, error, memory; sides alternate within one run.

    PYTHONPATH=kernels python kernels/benchmarks/hyper_attention.py --tokens 4096 16384 65536 --json hyper.json

``two_pass`` is the form of the authors' code in plain torch: blocks and samples attended apart, merged by their
log-sum-exp. ``sdpa`` is exact attention, ``plain`` and ``triton`` are the backends with 256 keys of a block and 256
samples, and with ``_taper`` as :class:`xt.models.context.hyper.Hyper` calls them: exact up to 4,096 tokens. Errors are
those of the outputs to exact attention, relative, on tokens in 64 clusters and on random ones, whose exact output is
near 0.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from xt_kernels.hyper_attention import hyper_attention

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
BLOCK = SAMPLES = 256


def two_pass(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend as the authors' code does: sorted copies, two softmaxes, a merge."""
    batch, heads, length, dim = q.shape
    scale = dim**-0.5
    directions = torch.randn(dim, 7, generator=torch.Generator().manual_seed(0)).to(q)
    powers = 2 ** torch.arange(6, -1, -1, device=q.device)

    def sort(x: Tensor) -> Tensor:
        gray = (x @ directions > 0).long()
        return ((gray.cumsum(-1) % 2) * powers).sum(-1).argsort(dim=-1, stable=True)

    def cut(x: Tensor, order: Tensor) -> Tensor:
        return x.gather(2, order.unsqueeze(-1).expand(-1, -1, -1, dim)).view(batch, heads, -1, BLOCK, dim)

    q_order, k_order = sort(q), sort(k)
    sorted_q, sorted_k, sorted_v = cut(q, q_order), cut(k, k_order), cut(v, k_order)
    logits = scale * (sorted_q @ sorted_k.mT)
    lse = logits.logsumexp(-1, keepdim=True)
    own = (logits - lse).exp() @ sorted_v
    samples = torch.randint(length, (SAMPLES,), generator=torch.Generator().manual_seed(0)).to(q.device)
    places = k_order.argsort(-1)[..., samples] // BLOCK
    here = torch.arange(length // BLOCK, device=q.device)[:, None] == places.unsqueeze(2)
    bias = torch.zeros_like(here, dtype=q.dtype).masked_fill_(here, -math.inf).unsqueeze(3)
    logits = scale * (sorted_q @ k[:, :, None, samples].mT) + bias
    lse_samples = logits.logsumexp(-1, keepdim=True)
    rest = (logits - lse_samples).exp() @ v[:, :, None, samples]
    lse_samples = lse_samples + math.log(length / SAMPLES)
    share = torch.sigmoid(lse - lse_samples)
    merged = (share * own + (1 - share) * rest).flatten(2, 3)
    return merged.gather(2, q_order.argsort(-1).unsqueeze(-1).expand(-1, -1, -1, dim))


def peers(device: str) -> dict[str, Attention]:
    """Name what is compared on a device."""
    found: dict[str, Attention] = {"two_pass": two_pass, "sdpa": F.scaled_dot_product_attention}
    for backend in ("plain", "triton") if device == "cuda" else ("plain",):
        found[backend] = partial(hyper_attention, min_seq_len=256, backend=backend)
        found[f"{backend}_taper"] = partial(hyper_attention, taper=True, backend=backend)
    return found


def tensors(length: int, heads: int, dim: int, device: str, clustered: bool = False) -> list[Tensor]:
    """Draw q, k, v ``(1, H, L, D)`` as a model cuts them out of one projection, or with keys in 64 clusters."""
    g = torch.Generator().manual_seed(length)
    if not clustered:
        joint = torch.randn(1, length, 3 * heads * dim, generator=g).to(device)
        return [x.view(1, length, heads, dim).transpose(1, 2) for x in joint.chunk(3, -1)]
    centres = torch.randn(1, heads, 64, dim, generator=g)[:, :, torch.randint(64, (length,), generator=g)]
    return [(centres + 0.3 * torch.randn(centres.shape, generator=g)).to(device) for _ in range(3)]


def timed(attend: Attention, inputs: list[Tensor], backward: bool) -> tuple[float, float]:
    """Return seconds of the clock and of the processor."""
    leaves = [x.detach().requires_grad_(backward) for x in inputs]
    start, clock = time.process_time(), time.perf_counter()
    with torch.set_grad_enabled(backward):
        out = attend(*leaves)
    if backward:
        torch.autograd.grad(out, leaves, inputs[0])
    if inputs[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - clock, time.process_time() - start


def memory(name: str, length: int, heads: int, dim: int) -> float:
    """Run a peer once in a process of its own; return the megabytes that it adds."""
    command = [sys.executable, __file__, "--memory", name, "--tokens", str(length), "--heads", str(heads)]
    told = subprocess.run([*command, "--dim", str(dim)], check=True, capture_output=True, text=True)
    return float(told.stdout)


def peak_mb() -> float:
    """Return the most memory this process had since the last call, and begin anew."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return float(status.split("VmHWM:")[1].split()[0]) / 1024


def compare(length: int, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Time all peers at one length, one after the other in each round."""
    inputs = tensors(length, options.heads, options.dim, options.device)
    sides = {n: f for n, f in peers(options.device).items() if n in options.peers}
    if length > options.exact_until:
        sides.pop("sdpa", None)
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(options.rounds + 1):
        for name, attend in sides.items():
            spent[name].append(timed(attend, inputs, options.backward))
    rows = {}
    for name, pairs in spent.items():
        clock, processor = (statistics.median(x) for x in zip(*pairs[1:], strict=True))  # the first warms up
        rows[name] = {"s": clock, "cpu_s": processor}
        if options.device == "cpu":
            rows[name]["mb"] = memory(name, length, options.heads, options.dim)
    if "sdpa" in options.peers and "sdpa" not in rows:  # quadratic: by its time at half the length or less
        part = [x[:, :, : options.exact_until] for x in inputs]
        pairs = [timed(F.scaled_dot_product_attention, part, options.backward)]
        factor = (length / options.exact_until) ** 2
        rows["sdpa"] = {"s": pairs[0][0] * factor, "cpu_s": pairs[0][1] * factor, "extrapolated": 1.0}
    return rows


def errors(length: int, options: argparse.Namespace, clustered: bool) -> dict[str, float]:
    """Return relative errors to exact attention."""
    inputs = tensors(length, 1, options.dim, options.device, clustered)
    want = F.scaled_dot_product_attention(*inputs)
    found = {name: attend(*inputs) for name, attend in peers(options.device).items() if name in options.peers}
    return {name: round(float((got - want).norm() / want.norm()), 3) for name, got in found.items() if name != "sdpa"}


def hardware(device: str) -> dict[str, object]:
    """Say what it ran on."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu[0].split(":")[1].strip(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "torch": torch.__version__,
        "system": platform.platform(),
    }


def gemm_peak() -> float:
    """Return GFLOP/s of a product of large matrices: the limit of all peers on a CPU."""
    a = torch.randn(2048, 2048)
    return max(2 * 2048**3 / timed(lambda q, k, v: q @ k, [a, a, a], False)[0] for _ in range(3)) / 1e9


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 16384, 65536])
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peers", nargs="+", default=["two_pass", "sdpa", "plain", "triton"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--errors", action="store_true", help="of the outputs, on clustered keys")
    parser.add_argument("--backward", action="store_true", help="forward and backward")
    parser.add_argument("--exact-until", type=int, default=32768, help="beyond, exact attention is extrapolated")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Print a table and write JSON."""
    options = parsed()
    if options.memory:
        inputs = tensors(options.tokens[0], options.heads, options.dim, "cpu")
        peak_mb()
        before = peak_mb()
        timed(peers("cpu")[options.memory], inputs, options.backward)
        print(peak_mb() - before)
        return
    report: dict[str, object] = {"hardware": hardware(options.device), "gemm_gflops": gemm_peak()}
    print(report)
    for length in options.tokens:
        rows = compare(length, options)
        best = rows[next(name for name in ("triton", "plain", *rows) if name in rows)]
        # Of exact attention's products: how many are left, and so what the ratio would be at its speed.
        print(f"{length} tokens; products fewer {length / (BLOCK + SAMPLES):.0f} times")
        for name, row in rows.items():
            numbers = {key: round(value, 3) for key, value in row.items()}
            ratios = (row[key] / best[key] for key in ("s", "cpu_s"))
            print(f"  {name:9s} {numbers}  {' | '.join(f'{ratio:.1f} x' for ratio in ratios)}", flush=True)
        if options.errors:
            for kind in ("clustered", "random"):
                print(f"  errors on {kind} tokens: {errors(length, options, kind == 'clustered')}", flush=True)
        report[str(length)] = rows
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
