"""Peak memory of one training step of a config at several image sizes, each in a process of its own.

    python scripts/step_memory.py configs/xview3_4096_512.yaml --sizes 2048 4096

Prints the peak above what the process holds before the step, and what of it are images, targets and token features
(the pyramid and its gradient), which must grow with the image.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import yaml


def step(config: Path, size: int) -> None:
    from xt.malloc import return_large_blocks, use_huge_pages

    use_huge_pages()
    return_large_blocks(size)

    import torch

    from xt.losses.detection import DetectionLoss
    from xt.models.factory import build_from_spec

    torch.manual_seed(0)
    spec = yaml.safe_load(config.read_text())["model"]["model"]
    spec["region_encoder"]["init_args"]["in_chans"] = 2
    heads = {"center": 1, "vessel": 1, "fishing": 1, "length": 1}
    model = build_from_spec({**spec, "heads": heads}).train()
    optimizer = torch.optim.AdamW(model.parameters())
    loss = DetectionLoss()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    image = torch.randn(1, model.in_chans, size, size)
    valid = torch.ones(1, 1, size, size, dtype=torch.bool)
    flags = torch.zeros(1, 1, size, size, dtype=torch.uint8)
    targets = {
        "center": flags,
        "vessel": flags,
        "fishing": flags,
        "length": torch.zeros(1, 1, size, size),
        "valid": valid,
    }
    start = time.process_time()
    loss.total(model.statistics(image, targets, loss.statistics, valid), 1)["loss"].backward()
    optimizer.step()
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cells = sum(c / s**2 for c, s in zip(model.region_encoder.channels, model.region_encoder.strides, strict=True))
    data = size * size * (4 * model.in_chans + 1 + 3 + 4) + 2 * 4 * cells * size * size
    rest = (peak - before) / 2**20 - data / 2**30
    print(
        f"{size} px: peak {peak / 2**20:.2f} GiB, before the step {before / 2**20:.2f}, images and features "
        f"{data / 2**30:.2f}, rest {rest:.2f} GiB, {seconds:.0f} CPU s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        step(args.config, args.one)
        return
    for size in args.sizes:
        subprocess.run([sys.executable, __file__, str(args.config), "--one", str(size)], check=True)


if __name__ == "__main__":
    main()
