"""Memory and time of predicting scenes: made-up rasters of two bands, models with random weights, one process each.

    python scripts/scene_memory.py 4096x4096 8192x8192 [--model tiny|swin] [--context windows|full] [--strips]
        [--precision bf16]

Prints the peak of the process, which in the first line is had for hardly any work, and seconds of its main thread by
stage. Where there is a GPU it predicts there, and prints its peak too.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.windows import Window

from xt.models.checkpoint import save_model
from xt.models.factory import build_from_spec
from xt.models.metadata import ModelMetadata

TINY = {
    "name": "convnext_atto", "region_size": 256, "model_args": {"dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
}  # fmt: skip
ENCODERS = {
    "tiny": (TINY, 32, 2048, [8, 8, 16, 32]),
    "swin": ({"name": "swinv2_t", "region_size": 512}, 768, 4096, [48, 96, 176, 256]),
}
SHARES = (
    "first read",
    "first encode",
    "first context",
    "read",
    "encode",
    "context",
    "decode",
    "write",
    "assemble",
    "objects",
)


def make_model(folder: Path, kind: str) -> Path:
    """Save a model for points, which has found nothing yet."""
    encoder, dim, image_size, filters = ENCODERS[kind]
    torch.manual_seed(0)
    model = build_from_spec(
        {
            "region_encoder": {"class_path": "TimmFeatures", "init_args": {**encoder, "in_chans": 2}},
            "context": {"class_path": "Mamba", "init_args": {"depth": 2 if kind == "tiny" else 4}},
            "context_dim": dim,
            "decoder": {"class_path": "UNet", "init_args": {"filters": filters}},
            "heads": dict.fromkeys(("center", "vessel", "fishing", "length"), 1),
        }
    )
    torch.nn.init.constant_(model.heads["center"].bias, -5.0)
    metadata = ModelMetadata("point-detection", ("VV", "VH"), (128.0, 128.0), (60.0, 60.0), image_size=image_size)
    save_model(folder, model, metadata)
    return folder


def make_scene(path: Path, height: int, width: int, strips: bool) -> Path:
    """Write noise that repeats, in tiles or in strips of one row, with a corner of no data."""
    rng = np.random.default_rng(0)
    noise = rng.integers(1, 255, (2, 512, width + 512), dtype=np.uint8)
    shape = {"tiled": False, "blockysize": 1} if strips else {"tiled": True, "blockxsize": 512, "blockysize": 512}
    settings = {"driver": "GTiff", "count": 2, "height": height, "width": width, "dtype": "uint8", "nodata": 0}
    with rasterio.open(path, "w", **settings, **shape, bigtiff="if_safer", transform=rasterio.Affine.scale(10)) as out:
        for row in range(0, height, 512):
            high, shift = min(512, height - row), row // 512 % 512
            block = noise[:, :high, shift : shift + width].copy()
            block[:, :, : max(0, width // 4 - row)] = 0
            out.write(block, window=Window(0, row, width, high))
    return path


def predict(image: Path, model: Path, context: str, precision: str) -> None:
    """Predict in a process of its own; print its peak and its stages."""
    out = image.with_name("o.tif")
    argv = [
        "-m",
        "xt.cli.main",
        "predict",
        str(image),
        "-m",
        str(model),
        "-o",
        str(out),
        "--overwrite",
        "--context",
        context,
        "--precision",
        precision,
    ]
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *argv], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = json.loads(out.with_suffix(".report.json").read_text())
    seconds = ", ".join(f"{stage} {report['seconds'][stage]:.1f}" for stage in SHARES if stage in report["seconds"])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = f"{report['peak_memory_bytes'] / 2**30:.2f} GiB"
    if "peak_gpu_memory_bytes" in report:
        peak += f" and {report['peak_gpu_memory_bytes'] / 2**30:.2f} GiB of the GPU"
    height, width = report["size"]
    wall = time.perf_counter() - start
    print(
        f"{height} x {width}, {context}, {precision}: peak {peak}; {wall:.0f} s, {cpu:.0f} CPU s ({seconds})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="+", metavar="HEIGHTxWIDTH")
    parser.add_argument("--model", choices=ENCODERS, default="tiny")
    parser.add_argument("--context", choices=["windows", "full"], default="windows")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--strips", action="store_true")
    parser.add_argument("--scratch", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.scratch) as name:
        folder = Path(name)
        model = make_model(folder / "model", args.model)
        print(f"model {args.model}, {torch.get_num_threads()} threads, torch {torch.__version__}")
        predict(make_scene(folder / "one.tif", 64, 64, False), model, args.context, args.precision)
        for size in args.sizes:
            height, width = map(int, size.split("x"))
            predict(make_scene(folder / "scene.tif", height, width, args.strips), model, args.context, args.precision)


if __name__ == "__main__":
    main()
