"""The machine: what figures depend on, and the limits that it reaches itself."""

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from xt.analysis.bench.measure import Run, timed
from xt.analysis.bench.settings import Settings

PACKAGES = ("xt", "torch", "numba", "triton", "timm", "mambapy")
_MEBIBYTES = {"cpu": 256, "cuda": 1024}
_SIDE = {"cpu": 2048, "cuda": 8192}


def hardware(settings: Settings) -> dict[str, Any]:
    """What figures depend on: processors, memory, versions, date."""
    facts: dict[str, Any] = {
        "date": time.strftime("%F"),
        "device": torch.cuda.get_device_name() if settings.device == "cuda" else _processor(),
        "cores": os.cpu_count(),
        "threads": settings.threads,
        "load": [round(each, 2) for each in os.getloadavg()],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    return facts


def limits(settings: Settings) -> dict[str, float]:
    """``memory``: GB/s that a copy of large arrays reads and writes; ``gemm``: GFLOP/s of a product of matrices."""
    dtype = getattr(torch, settings.dtype)
    source = torch.ones(_MEBIBYTES[settings.device] * 2**20 // dtype.itemsize, dtype=dtype, device=settings.device)
    target = torch.empty_like(source)
    side = _SIDE[settings.device]
    matrix = torch.ones(side, side, dtype=dtype, device=settings.device)
    copied = 2 * source.numel() * dtype.itemsize
    return {
        "memory": copied / _best(Run(target.copy_, (source,)), settings) / 1e9,
        "gemm": 2 * side**3 / _best(Run(torch.matmul, (matrix, matrix)), settings) / 1e9,
    }


def free_bytes(device: str) -> int:
    """Memory that a run may take."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    try:
        told = Path("/proc/meminfo").read_text()
        return int(told.split("MemAvailable:")[1].split()[0]) * 1024
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _best(run: Run, settings: Settings, rounds: int = 5) -> float:
    return min(timed(run, False, settings.device).on(settings.clock) for _ in range(rounds))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
