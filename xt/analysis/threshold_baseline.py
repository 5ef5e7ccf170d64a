"""The simplest rival of a segmentation model: a brightness threshold tuned on the training images.

``python -m xt.analysis.threshold_baseline CONFIG --root DIR`` tunes on the config's training images and prints the
IoU on its validation and test images.
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml

from xt.data.raster_pairs import RasterPairsData


def iou_by_threshold(data: RasterPairsData, split: str) -> npt.NDArray[np.float64]:
    """IoU of class 1 if every pixel whose mean over bands exceeds t is of it, for t = 0 … 255."""
    hits, predicted, truth = np.zeros(256), np.zeros(256), 0
    for image, mask in data.pairs[split]:
        pixels, valid = data.read_image(image)
        classes = data.read_mask(mask)
        scored = valid & (classes != data.ignore_index)
        bright = np.clip(pixels.mean(0)[scored], 0, 255).astype(int)
        ship = classes[scored] == 1
        # Pixels brighter than t, for every t at once.
        hits += np.bincount(bright[ship], minlength=256)[::-1].cumsum()[::-1]
        predicted += np.bincount(bright, minlength=256)[::-1].cumsum()[::-1]
        truth += int(ship.sum())
    union = predicted + truth - hits
    return np.asarray(hits / np.maximum(union, 1))


def main() -> None:
    """Print the tuned threshold and its IoU."""
    parser = argparse.ArgumentParser(description="Brightness threshold tuned on the training images.")
    parser.add_argument("config", type=Path)
    parser.add_argument("--root", required=True)
    args = parser.parse_args()
    options = yaml.safe_load(args.config.read_text())["data"]["init_args"] | {"root": args.root}
    data = RasterPairsData(**options)
    data.setup("fit")
    best = int(iou_by_threshold(data, "train").argmax())
    print(f"threshold {best}")
    for split in ("train", "validation", "test"):
        print(f"{split:12} IoU {iou_by_threshold(data, split)[best]:.4f}")


if __name__ == "__main__":
    main()
