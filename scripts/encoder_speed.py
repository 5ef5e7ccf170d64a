"""A region encoder on a CPU, timm's and this package's, taking turns: python scripts/encoder_speed.py [--threads N].

Each side has a process of its own for each way, as its users have: memory that a process has used before and kept costs
no fresh pages, so forward is faster after backward, and timm's, whose arrays are larger, more so. With
``MALLOC_TRIM_THRESHOLD_=4000000000 MALLOC_MMAP_THRESHOLD_=1000000000`` all processes keep what they have used.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import timm
import torch

from xt.models.region.faster import accelerate

FLOPS = {"swinv2_tiny_window16_256": 53e9}
"""Of one image of 512 px: products of matrices, forward."""
SIDES, WAYS = ("timm", "xt"), ("forward", "both ways")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="swinv2_tiny_window16_256", help="timm's name (SwinV2-T)")
    parser.add_argument("--size", type=int, default=512, help="side of the image in pixels")
    args = parser.parse_args()
    names = [(side, way) for way in WAYS for side in SIDES] + [("product", "")]
    there = {name: _start(*name, args) for name in names}
    best = dict.fromkeys(names, float("inf"))
    for _ in range(args.rounds):
        for name, process in there.items():
            process.send(True)
            best[name] = min(best[name], process.recv())
    for process in there.values():
        process.send(False)
    peak = 2 * 2048**3 / best["product", ""]
    for way in WAYS:
        theirs, ours = best["timm", way], best["xt", way]
        print(f"{way}: timm {theirs:.3f} s, xt {ours:.3f} s, {theirs / ours:.2f} times as fast")
    if args.size == 512 and args.model in FLOPS:
        share = FLOPS[args.model] / best["xt", "forward"] / peak
        print(f"share of a matrix product's {peak / 1e9:.0f} GFLOP/s, forward: {share:.0%}")


def _start(side: str, way: str, args: argparse.Namespace) -> Connection:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    context.Process(target=_serve, args=(there, side, way, args), daemon=True).start()
    return here


def _serve(asked: Connection, side: str, way: str, args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    run = _work(side, way, args)
    run()
    while asked.recv():
        start = time.perf_counter()
        run()
        asked.send(time.perf_counter() - start)


def _work(side: str, way: str, args: argparse.Namespace) -> Callable[[], object]:
    if side == "product":
        matrix = torch.randn(2048, 2048)
        return lambda: matrix @ matrix
    sized = {"img_size": args.size} if timm.get_pretrained_cfg(args.model).fixed_input_size else {}
    model = timm.create_model(args.model, in_chans=2, features_only=True, **sized).eval()
    if side == "xt":
        accelerate(model)
    image = torch.randn(1, 2, args.size, args.size)
    if way == "forward":
        return lambda: torch.no_grad()(model)(image)
    return lambda: sum(each.square().mean() for each in model(image)).backward()


if __name__ == "__main__":
    main()
