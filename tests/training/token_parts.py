"""A small model and a scene of which some regions hold nothing."""

from pathlib import Path

import numpy as np
import rasterio
import torch

from xt.models.checkpoint import save_model
from xt.models.factory import build_from_spec
from xt.models.metadata import ModelMetadata
from xt.tasks.detection import PointDetection

ENCODER = {
    "name": "convnext_atto",
    "region_size": 64,
    "model_args": {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
    "norm": True,
}
PARTS = {
    "region_encoder": {"class_path": "TimmFeatures", "init_args": ENCODER},
    "context": {"class_path": "Identity"},
    "context_dim": 16,
    "decoder": {"class_path": "UNet", "init_args": {"filters": [8, 8, 8], "out_stride": 4}},
    "region_batch": 3,
    "decode_size": 128,
    "streaming": True,
}


def model_folder(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    metadata = ModelMetadata(
        "point-detection", ("VV_dB", "VH_dB"), (-16.4, -26.3), (5.0, 5.0), nodata=-32768.0, image_size=128
    )
    encoder = {"class_path": "TimmFeatures", "init_args": ENCODER | {"in_chans": 2}}
    heads = PointDetection().heads
    save_model(folder, build_from_spec(PARTS | {"region_encoder": encoder, "heads": heads}), metadata)
    return folder


def scene(path: Path, rows: int = 150, cols: int = 200) -> Path:
    values = np.random.default_rng(0).normal(-20, 5, (2, rows, cols)).astype(np.float32)
    values[:, :, 128:] = -32768  # the third column of regions and the fourth hold nothing
    values[:, 70:80, 190:] = -10  # but for two of them
    profile = {"driver": "GTiff", "count": 2, "height": rows, "width": cols, "dtype": "float32", "nodata": -32768}
    with rasterio.open(path, "w", **profile) as out:
        out.write(values)
    return path
