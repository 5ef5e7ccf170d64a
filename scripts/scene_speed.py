"""A scene predicted by xt and by a plain loop over overlapping windows with the same model, in turns.

    python scripts/scene_speed.py [--model tiny|swin] [--size 4096x6144] [--tile 2048] [--rounds 2] [--strips]

The loop is what one writes at home: read a window, run the model, add the weighted maps, write rows as they are done;
windows overlap by an eighth. Both write the same maps as GeoTIFF. Prints seconds of the clock and of the processor, and
the share of xt's clock in which reading or writing holds it up.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.windows import Window
from scene_memory import make_model, make_scene

from xt.data.source import Source
from xt.geometry import grid
from xt.geometry.blend import axis_weights, tile_starts
from xt.inference.options import PredictOptions
from xt.inference.predict import predict_image
from xt.models.checkpoint import load_model
from xt.models.metadata import ModelMetadata
from xt.models.xt import XT
from xt.tasks.registry import task_of

IO = ("read", "write", "assemble")


def loop(model: XT, metadata: ModelMetadata, image: Path, out: Path, tile: int) -> None:
    """Predict window by window; what two windows share is computed twice and averaged."""
    source, task = Source(image, metadata.inputs), task_of(metadata)
    rows, cols = (tile_starts(n, tile, tile // 8) for n in (source.height, source.width))
    down, across = (
        axis_weights(starts, tile, n, "cosine") for starts, n in ((rows, source.height), (cols, source.width))
    )
    high, wide = min(tile, source.height), min(tile, source.width)
    bands = len(task.product.names)
    settings = {"driver": "GTiff", "count": bands, "height": source.height, "width": source.width, "dtype": "float32"}
    tiles = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "bigtiff": "if_safer"}
    sums, valid = np.zeros((bands, high, source.width), np.float32), np.zeros((high, source.width), bool)
    with (
        rasterio.open(out, "w", **settings, **tiles, transform=rasterio.Affine.scale(10)) as writer,
        torch.inference_mode(),
    ):
        for i, row in enumerate(rows):
            for j, col in enumerate(cols):
                pixels, known = source.read(grid.Window(row, col, high, wide))
                if known.any():
                    raw = model(torch.from_numpy(pixels)[None], torch.from_numpy(known)[None, None])
                    values = task.activate({name: each[0] for name, each in raw.items()})
                    sums[:, :, col : col + wide] += values * (down[i][:, None] * across[j][None, :])
                valid[:, col : col + wide] |= known
            final = high if i + 1 == len(rows) else rows[i + 1] - row
            writer.write(task.paint(sums[:, :final], valid[:final]), window=Window(0, row, source.width, final))
            for each in (sums, valid):
                each[..., : high - final, :] = each[..., final:, :].copy()
                each[..., high - final :, :] = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["tiny", "swin"], default="swin")
    parser.add_argument("--size", default="4096x6144")
    parser.add_argument("--tile", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--strips", action="store_true")
    args = parser.parse_args()
    height, width = map(int, args.size.split("x"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, metadata = load_model(make_model(folder / "model", args.model))
        image = make_scene(folder / "a.tif", height, width, args.strips)
        options = PredictOptions(tile=args.tile, overwrite=True)
        sides = {
            "loop": lambda: loop(model, metadata, image, folder / "loop.tif", args.tile),
            "xt": lambda: predict_image(model, metadata, image, folder / "o.tif", options),
        }
        print(f"{args.model}, {height} x {width} px, tile {args.tile}, {torch.get_num_threads()} threads")
        best: dict[str, tuple[float, float]] = {}
        for _ in range(args.rounds):
            for side, run in sides.items():
                start, cpu = time.perf_counter(), time.process_time()
                run()
                took = time.perf_counter() - start, time.process_time() - cpu
                print(f"  {side}: {took[0]:.0f} s, {took[1]:.0f} CPU s", flush=True)
                best[side] = min(best.get(side, took), took)
        report = json.loads((folder / "o.report.json").read_text())["seconds"]
        share = sum(report.get(stage, 0) for stage in IO) / sum(report.values())
        ratios = [loop / ours for loop, ours in zip(best["loop"], best["xt"], strict=True)]
        print(f"xt is {ratios[0]:.2f} times as fast, {ratios[1]:.2f} by CPU seconds; i/o holds it up {share:.1%}")


if __name__ == "__main__":
    main()
