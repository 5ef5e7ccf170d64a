"""What one training step of a config takes, on one thread of a CPU or on a GPU, by kind of operation.

    python scripts/step_profile.py configs/xview3_4096_512.yaml [--size 2048]
    python scripts/step_profile.py configs/xview3_4096_512.yaml --size 4096 --device cuda --precision bf16

With the code of another commit first on PYTHONPATH it profiles that. On a CPU the profiler's seconds are of the clock,
so nothing else should run; on a GPU they are those of its kernels, and beside them stand the median time of a step
without the profiler, and the memory that the step takes.
"""

import argparse
import importlib
import importlib.util
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

KINDS = {
    "selective scan": ("selective_scan", "SelectiveScan", "_Scan"),
    "attention": ("scaled_dot_product", "window_attention", "WindowAttention", "_softmax"),
    "convolutions": ("convolution", "conv"),
    "matrix products": ("addmm", "::mm", "bmm", "linear", "einsum", "::dot"),
    "norms": ("layer_norm", "batch_norm", "group_norm", "linalg_vector_norm"),
    "activations": ("gelu", "silu", "softplus", "sigmoid", "relu"),
    "copies and layout": (
        "copy_", "clone", "::cat", "index", "zero_", "fill_", "slice", "roll", "pad", "flip", "empty", "select",
        "stack", "gather", "scatter", "unfold", "upsample",
    ),
    "sums, products and the like": (
        "::add", "::mul", "::sub", "::div", "::exp", "::log", "::sum", "::neg", "cumsum", "::where", "clamp", "::pow",
        "sqrt", "::mean", "addc", "lerp", "::sin", "::cos", "minimum", "maximum", "square", "foreach", "cumprod",
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--region-batch", type=int, help="instead of the config's")
    parser.add_argument("--decode-size", type=int, help="instead of the config's")
    args = parser.parse_args()
    set_up_memory(args.size)
    run(args)


def set_up_memory(size: int) -> None:
    """As training does, in whichever commit."""
    place = "xt.malloc" if importlib.util.find_spec("xt.malloc") else "xt.training.malloc"
    malloc = importlib.import_module(place)
    if hasattr(malloc, "use_huge_pages"):
        malloc.use_huge_pages()
    malloc.return_large_blocks(size)


def run(args: argparse.Namespace) -> None:
    import torch
    from torch.profiler import ProfilerActivity, profile

    from xt.models.factory import build_from_spec

    torch.set_num_threads(1)
    torch.manual_seed(0)
    spec = yaml.safe_load(args.config.read_text())["model"]["model"]
    spec["region_encoder"]["init_args"]["in_chans"] = 2
    model = build_from_spec({**spec, "heads": dict.fromkeys(("center", "vessel", "fishing", "length"), 1)}).train()
    model.region_batch = args.region_batch or model.region_batch
    model.decode_size = args.decode_size or model.decode_size
    model.to(args.device)
    gpu = args.device == "cuda"
    step(model, 512, args.precision)
    if gpu:
        step(model, args.size, args.precision)  # picks algorithms and compiles for these sizes
        torch.cuda.reset_peak_memory_stats()
        took = statistics.median(timed(model, args) for _ in range(3))
        memory = torch.cuda.max_memory_allocated() / 2**30
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: {took:.2f} s a step, {memory:.1f} GiB")
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as spent:
        step(model, args.size, args.precision)
    sums: dict[str, float] = defaultdict(float)
    for event in spent.key_averages():
        if gpu and event.device_type.name == "CUDA":
            continue  # a kernel, whose time its operation has
        sums[kind_of(event.key)] += (event.self_device_time_total if gpu else event.self_cpu_time_total) / 1e6
    total = sum(sums.values())
    for kind, seconds in sorted(sums.items(), key=lambda each: -each[1]):
        print(f"{kind:28} {seconds:8.3f} s {seconds / total:4.0%}")
    print(f"{'all':28} {total:8.3f} s")


def timed(model: Any, args: argparse.Namespace) -> float:
    import torch

    start = time.perf_counter()
    step(model, args.size, args.precision)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def step(model: Any, size: int, precision: str) -> None:
    import torch

    from xt.losses.detection import DetectionLoss

    device = next(model.parameters()).device
    image = torch.randn(1, model.in_chans, size, size, device=device)
    valid = torch.ones(1, 1, size, size, dtype=torch.bool, device=device)
    flags = torch.zeros(1, 1, size, size, dtype=torch.uint8, device=device)
    targets = dict.fromkeys(("center", "vessel", "fishing"), flags)
    targets |= {"length": torch.zeros(1, 1, size, size, device=device), "valid": valid}
    loss = DetectionLoss()
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        total = loss.total(model.statistics(image, targets, loss.statistics, valid), 1)["loss"]
    total.backward()


def kind_of(name: str) -> str:
    return next((kind for kind, parts in KINDS.items() if any(each in name for each in parts)), "other")


if __name__ == "__main__":
    main()
