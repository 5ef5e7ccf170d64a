"""``xt doctor``: check the installation and the machine, and say what to do."""

import argparse
import json
import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version

MINIMUM = {
    "torch": (2, 10),
    "lightning": (2, 6, 6),
    "timm": (1, 0, 20),
    "rasterio": (1, 4, 4),
    "webdataset": (1, 0, 2),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``xt doctor``."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run ``xt doctor``; return 0 when all is well and 3 otherwise."""
    from xt.errors import EXIT_OK, EXIT_SOME_FAILED

    facts: dict[str, str] = {"python": platform.python_version(), "cores": str(os.cpu_count())}
    problems: list[str] = []
    for package, minimum in MINIMUM.items():
        try:
            found = version(package)
        except PackageNotFoundError:
            problems.append(f"{package} is not installed: pip install -e .")
            continue
        facts[package] = found
        if _numbers(found) < minimum:
            wanted = ".".join(map(str, minimum))
            problems.append(f"{package} {found} is older than {wanted}: pip install -U '{package}>={wanted}'")
    facts["free disk here"] = f"{shutil.disk_usage('.').free >> 30} GiB"
    facts["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') >> 30} GiB"
    if not problems:
        facts |= _accelerator()
        facts |= _raster()
    if args.json:
        json.dump({"facts": facts, "problems": problems}, sys.stdout)
        print()
    else:
        for name, value in facts.items():
            print(f"{name:15} {value}")
        for problem in problems:
            print(f"problem: {problem}")
        if not problems:
            print("all is well")
    return EXIT_SOME_FAILED if problems else EXIT_OK


def _accelerator() -> dict[str, str]:
    import torch

    if not torch.cuda.is_available():
        return {"gpu": "none: training and prediction run on the CPU"}
    memory = torch.cuda.get_device_properties(0).total_memory >> 30
    return {"gpu": f"{torch.cuda.get_device_name(0)}, {memory} GiB, CUDA {torch.version.cuda}"}


def _raster() -> dict[str, str]:
    import rasterio

    return {"gdal": rasterio.__gdal_version__}


def _numbers(text: str) -> tuple[int, ...]:
    parts = text.split("+")[0].split(".")[:3]
    return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in parts)
