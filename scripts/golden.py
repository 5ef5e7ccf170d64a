"""Everything that a redesign must leave as it is, as one JSON: some steps, a prediction and a score of each task.

Usage: python scripts/golden.py before.json; with the new code python scripts/golden.py after.json --against before.json

Runs the commands alone, on data that it makes, so that it fits any version; CPU, one thread, two minutes. The logits of
the released code are compared in tests/models/test_upstream.py.
"""

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from PIL import Image

ROOT = Path(__file__).parents[1]
ENCODER = [
    "--model.model.region_encoder.init_args.name=convnext_atto",
    "--model.model.region_encoder.init_args.region_size=64",
    "--model.model.region_encoder.init_args.model_args={dims: [8, 16, 16, 32], depths: [1, 1, 1, 1]}",
    "--model.model.region_encoder.init_args.norm=true",
    "--model.model.context_dim=32",
    "--model.model.region_batch=5",
]
FEW = [
    "--trainer.accelerator=cpu",
    "--trainer.max_steps=60",
    "--trainer.max_epochs=-1",
    "--trainer.enable_progress_bar=false",
]


def xt(*argv: str) -> str:
    """Run a command of xt; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "xt.cli.main", *argv], cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"xt {' '.join(argv)}\n{done.stderr[-2000:]}")
    return done.stdout


def losses(run: Path) -> dict[str, list[float]]:
    """Every logged value of a run by its name."""
    found: dict[str, list[float]] = {}
    with (run / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            if not row["name"].startswith("lr"):
                found.setdefault(row["name"], []).append(float(row["value"]))
    return dict(sorted(found.items()))


def raster(path: Path) -> dict[str, Any]:
    """What is in a GeoTIFF."""
    with rasterio.open(path) as dataset:
        pixels = dataset.read()
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        means = np.nan_to_num(pixels.astype(np.float64)).mean((1, 2)).tolist()
        return {"sha256": digest, "means": means, "names": dataset.descriptions, "nodata": str(dataset.nodata)}


def detection(folder: Path) -> dict[str, Any]:
    """Some steps of the demo on small scenes, evaluation, a prediction and its score."""
    data, run, out = folder / "scenes", folder / "detect", folder / "points.tif"
    xt("synth", "xview3", str(data), "--scenes", "8", "--size", "300", "--seed", "3")
    more = ["--data.image_size=256", "--data.batch_size=2", "--trainer.check_val_every_n_epoch=4"]
    xt("train", "configs/xview3_demo.yaml", "--data.root", str(data), "--run_dir", str(run), *ENCODER, *FEW, *more)
    scores = json.loads(xt("eval", str(run), "--json").splitlines()[-1])
    scene = sorted((data / "test").iterdir())[0]
    xt("predict", str(scene), "-m", str(run), "-o", str(out), "--tile", "192", "--overlap", "32")
    score = json.loads(xt("score", str(out.with_suffix(".csv")), str(data / "test.csv"), "--json").splitlines()[-1])
    points = out.with_suffix(".csv").read_text()
    return {"steps": losses(run), "eval": scores, "raster": raster(out), "points": points, "score": score}


def segmentation(folder: Path) -> dict[str, Any]:
    """Some steps of the ships on painted squares, and a prediction."""
    data, run, out = folder / "pairs", folder / "segment", folder / "classes.tif"
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (data / name).mkdir(parents=True)
    for name in ("P0001_a", "P0001_b", "P0007_a", "P0021_a"):
        pixels, mask = rng.integers(0, 90, (3, 200, 180), dtype=np.uint8), np.zeros((3, 200, 180), np.uint8)
        for row, col in rng.integers(0, 160, (6, 2)):
            pixels[:, row : row + 16, col : col + 12] += 120
            mask[1, row : row + 16, col : col + 12] = 255
        for place, values in (("images", pixels), ("masks", mask)):
            Image.fromarray(values.transpose(1, 2, 0)).save(data / place / f"{name}.png")
    more = ["--data.image_size=128", "--data.batch_size=2", "--trainer.check_val_every_n_epoch=4"]
    xt(
        "train",
        "configs/segmentation_ships.yaml",
        "--data.root",
        str(data),
        "--run_dir",
        str(run),
        *ENCODER,
        *FEW,
        *more,
    )
    scores = json.loads(xt("eval", str(run), "--split", "test", "--json").splitlines()[-1])
    xt("predict", str(data / "images" / "P0021_a.png"), "-m", str(run), "-o", str(out))
    return {"steps": losses(run), "eval": scores, "raster": raster(out)}


def classification(folder: Path) -> dict[str, Any]:
    """Some steps of the control of iNaturalist on coloured noise, and a prediction."""
    data, run, out = folder / "images", folder / "classify", folder / "class.tif"
    data.mkdir()
    rng = np.random.default_rng(0)
    categories = [{"id": i, "name": f"c{i}", "supercategory": "Reptilia"} for i in range(284)]
    for split in ("train", "val"):
        entries = [(i, f"{split}{i}.png", i % 3) for i in range(6)]
        for _, name, label in entries:
            pixels = rng.integers(0, 100, (150, 140, 3), dtype=np.uint8)
            pixels[..., label] += 100
            Image.fromarray(pixels).save(data / name)
        lists = {
            "categories": categories,
            "images": [{"id": i, "file_name": name} for i, name, _ in entries],
            "annotations": [{"image_id": i, "category_id": label} for i, _, label in entries],
        }
        (data / f"{split}2018.json").write_text(json.dumps(lists))
    more = ["--data.image_size=128", "--data.batch_size=2", "--data.num_workers=0"]
    config = "configs/inat_reptilia_512_256_none.yaml"
    xt("train", config, "--data.root", str(data), "--run_dir", str(run), *ENCODER, *FEW, *more)
    scores = json.loads(xt("eval", str(run), "--json").splitlines()[-1])
    xt("predict", str(data / "val0.png"), "-m", str(run), "-o", str(out))
    answer = json.loads(out.with_suffix(".json").read_text())
    return {"steps": losses(run), "eval": scores, "raster": raster(out), "class": answer}


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Each place where two values differ, with both."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = [differences(old.get(key), new.get(key), f"{path}.{key}") for key in sorted({*old, *new})]
        return [each for part in found for each in part]
    return [] if old == new else [f"{path[1:]}: {str(old)[:200]} became {str(new)[:200]}"]


def main() -> int:
    """Make the values, and compare them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="JSON to write")
    parser.add_argument("--against", type=Path, help="JSON of the code before")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        values = {task.__name__: task(Path(folder)) for task in (detection, segmentation, classification)}
    values = json.loads(json.dumps(values))
    args.out.write_text(json.dumps(values, indent=1) + "\n")
    if args.against is None:
        return 0
    found = differences(json.loads(args.against.read_text()), values)
    print("\n".join(found) or "nothing has changed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
