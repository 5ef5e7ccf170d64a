"""What one training step of a config takes on one thread of a CPU, by kind of operation.

    python scripts/step_profile.py configs/xview3_4096_512.yaml [--size 2048]

With the code of another commit first on PYTHONPATH it profiles that. The profiler's seconds are of the clock, so
nothing else should run.
"""

import argparse
import importlib
import importlib.util
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
    args = parser.parse_args()
    set_up_memory(args.size)
    run(args.config, args.size)


def set_up_memory(size: int) -> None:
    """As training does, in whichever commit."""
    place = "xt.malloc" if importlib.util.find_spec("xt.malloc") else "xt.training.malloc"
    malloc = importlib.import_module(place)
    if hasattr(malloc, "use_huge_pages"):
        malloc.use_huge_pages()
    malloc.return_large_blocks(size)


def run(config: Path, size: int) -> None:
    import torch
    from torch.profiler import ProfilerActivity, profile

    from xt.models.factory import build_from_spec

    torch.set_num_threads(1)
    torch.manual_seed(0)
    spec = yaml.safe_load(config.read_text())["model"]["model"]
    spec["region_encoder"]["init_args"]["in_chans"] = 2
    model = build_from_spec({**spec, "heads": dict.fromkeys(("center", "vessel", "fishing", "length"), 1)}).train()
    step(model, 512)
    with profile(activities=[ProfilerActivity.CPU]) as spent:
        step(model, size)
    sums: dict[str, float] = defaultdict(float)
    for event in spent.key_averages():
        sums[kind_of(event.key)] += event.self_cpu_time_total / 1e6
    total = sum(sums.values())
    for kind, seconds in sorted(sums.items(), key=lambda each: -each[1]):
        print(f"{kind:28} {seconds:6.1f} s {seconds / total:4.0%}")
    print(f"{'all':28} {total:6.1f} s")


def step(model: Any, size: int) -> None:
    import torch

    from xt.losses.detection import DetectionLoss

    image, valid = torch.randn(1, model.in_chans, size, size), torch.ones(1, 1, size, size, dtype=torch.bool)
    flags = torch.zeros(1, 1, size, size, dtype=torch.uint8)
    targets = dict.fromkeys(("center", "vessel", "fishing"), flags)
    targets |= {"length": torch.zeros(1, 1, size, size), "valid": valid}
    loss = DetectionLoss()
    loss.total(model.statistics(image, targets, loss.statistics, valid), 1)["loss"].backward()


def kind_of(name: str) -> str:
    return next((kind for kind, parts in KINDS.items() if any(each in name for each in parts)), "other")


if __name__ == "__main__":
    main()
