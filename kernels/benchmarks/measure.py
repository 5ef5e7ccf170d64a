"""Measures peers side by side: they take turns, so that what else the machine does falls on all alike."""

import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch


def taking_turns(peers: Mapping[str, Callable[[], object]], rounds: int = 5) -> dict[str, float]:
    """Seconds of each peer, the best of some rounds in which every one runs once, after a round to warm up."""
    for run in peers.values():
        run()
    best = dict.fromkeys(peers, float("inf"))
    for _ in range(rounds):
        for name, run in peers.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def gpu_milliseconds(run: Callable[[], object]) -> float:
    """Median time of a GPU, by its own events."""
    from triton.testing import do_bench

    value: float = do_bench(run, warmup=10, rep=60, return_mode="median")
    return value


def peak_mebibytes(module: str, *arguments: str) -> float:
    """What a run of ``python -m module`` in a process of its own takes at its peak, by its own last line of output."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def grown_mebibytes(run: Callable[[], object]) -> float:
    """By how much the peak of this process grows in a run."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def gemm_gflops(size: int = 2048) -> float:
    """What a matrix product reaches here in fp32."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / taking_turns({"gemm": lambda: a @ b})["gemm"] / 1e9


def slope(sizes: list[int], seconds: list[float]) -> float:
    """Exponent of the growth: 1 is linear."""
    x, y = ([torch.tensor(float(v)).log().item() for v in values] for values in (sizes, seconds))
    return statistics.linear_regression(x, y).slope


def hardware() -> dict[str, Any]:
    """What the figures depend on."""
    facts: dict[str, Any] = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%F"),
    }
    if torch.cuda.is_available():
        return facts | {"gpu": torch.cuda.get_device_name()}
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return facts | {
        "cpu": names[0].split(":")[1].strip() if names else platform.machine(),
        "threads": torch.get_num_threads(),
    }


def report(results: Mapping[str, Any], out: Path | None) -> None:
    """Write results with the hardware beside."""
    text = json.dumps({"hardware": hardware(), **results}, indent=2)
    if out is None:
        print(text)
    else:
        out.write_text(text + "\n", encoding="utf-8")
