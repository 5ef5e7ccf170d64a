"""SwinV2-T at 512 px on a CPU, timm's and this package's, taking turns: python scripts/swin_speed.py [--threads N]."""

import argparse
import copy
import time

import timm
import torch
from torch import nn

from xt.models.region.swin_v2 import accelerate

FLOPS = 53e9
"""Of one image: products of matrices, forward."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    stock = timm.create_model("swinv2_tiny_window16_256", in_chans=2, img_size=512, features_only=True).eval()
    ours = copy.deepcopy(stock)
    accelerate(ours)
    image, matrix = torch.randn(1, 2, 512, 512), torch.randn(2048, 2048)

    def forward(model: nn.Module) -> None:
        with torch.no_grad():
            model(image)

    def both(model: nn.Module) -> None:
        sum(each.square().mean() for each in model(image)).backward()

    runs = {
        "timm, forward": lambda: forward(stock),
        "xt, forward": lambda: forward(ours),
        "timm, both": lambda: both(stock),
        "xt, both": lambda: both(ours),
        "gemm": lambda: matrix @ matrix,
    }
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(args.rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    peak = 2 * 2048**3 / best.pop("gemm")
    for name, seconds in best.items():
        print(f"{name}: {seconds:.3f} s")
    for way in ("forward", "both"):
        print(f"{way}: {best[f'timm, {way}'] / best[f'xt, {way}']:.2f} times as fast")
    print(f"share of a matrix product's {peak / 1e9:.0f} GFLOP/s, forward: {FLOPS / best['xt, forward'] / peak:.0%}")


if __name__ == "__main__":
    main()
