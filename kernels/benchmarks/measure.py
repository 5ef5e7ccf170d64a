"""Measures peers side by side: they take turns, so that what else the machine does falls on all alike."""

import json
import platform
import resource
import statistics
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


def grown_mebibytes(run: Callable[[], object]) -> float:
    """By how much the peak of this process grows in a run."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


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
