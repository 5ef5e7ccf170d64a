"""What one training step of a config takes on one thread of a CPU, by kind of operation.

    python scripts/step_profile.py configs/xview3_4096_512.yaml [--size 1024]

With the code of another commit first on PYTHONPATH it profiles that.
"""

import argparse
import os
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as xt sets it; other commits do not know

import torch
import yaml
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from xt.losses.detection import DetectionLoss
from xt.models.factory import build_from_spec

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
    parser.add_argument("--size", type=int, default=1024)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    spec = yaml.safe_load(args.config.read_text())["model"]["model"]
    spec["region_encoder"]["init_args"]["in_chans"] = 2
    model = build_from_spec({**spec, "heads": dict.fromkeys(("center", "vessel", "fishing", "length"), 1)}).train()
    step(model, args.size)
    with profile(activities=[ProfilerActivity.CPU]) as spent:
        step(model, args.size)
    sums: dict[str, float] = defaultdict(float)
    for event in spent.key_averages():
        sums[kind_of(event.key)] += event.self_cpu_time_total / 1e6
    total = sum(sums.values())
    for kind, seconds in sorted(sums.items(), key=lambda each: -each[1]):
        print(f"{kind:28} {seconds:6.1f} s {seconds / total:4.0%}")
    print(f"{'all':28} {total:6.1f} s")


def step(model: nn.Module, size: int) -> None:
    image, valid = torch.randn(1, model.in_chans, size, size), torch.ones(1, 1, size, size, dtype=torch.bool)
    flags = torch.zeros(1, 1, size, size, dtype=torch.uint8)
    targets: dict[str, Tensor] = dict.fromkeys(("center", "vessel", "fishing"), flags)
    targets |= {"length": torch.zeros(1, 1, size, size), "valid": valid}
    loss = DetectionLoss()
    loss.total(model.statistics(image, targets, loss.statistics, valid), 1)["loss"].backward()


def kind_of(name: str) -> str:
    return next((kind for kind, parts in KINDS.items() if any(each in name for each in parts)), "other")


if __name__ == "__main__":
    main()
