"""Small images and untrained models."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch

from xt.cli.main import main
from xt.models.checkpoint import save_model
from xt.models.factory import build_from_spec
from xt.models.metadata import ModelMetadata

HEADS = {
    "point-detection": {"center": 1, "vessel": 1, "fishing": 1, "length": 1},
    "semantic-segmentation": {"mask": 3},
    "classification": {"label": 3},
}


def save(
    folder: Path, task: str, num_bands: int, image_size: int = 128, context: str = "Identity", **settings: object
) -> Path:
    torch.manual_seed(0)
    encoder = {
        "name": "convnext_atto",
        "in_chans": num_bands,
        "region_size": 64,
        "model_args": {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
    }
    decoder = (
        {"class_path": "Pooled"}
        if task == "classification"
        else {"class_path": "UNet", "init_args": {"filters": [8, 8, 8], "out_stride": 4}}
    )
    spec = {
        "region_encoder": {"class_path": "TimmFeatures", "init_args": encoder}, "context": {"class_path": context, "init_args": settings},
        "context_dim": 16, "decoder": decoder, "heads": HEADS[task], "region_batch": 4, "decode_size": 128, "streaming": True,
    }  # fmt: skip
    classes = () if task == "point-detection" else ("a", "b", "c")
    bands = tuple(f"b{i}" for i in range(num_bands))
    metadata = ModelMetadata(
        task, bands, (0.0,) * num_bands, (100.0,) * num_bands, classes=classes, image_size=image_size,
        settings={"center_activation": "linear"} if task == "point-detection" else {},
    )  # fmt: skip
    model = build_from_spec(spec)
    if task == "point-detection":
        torch.nn.init.constant_(model.heads["center"].bias, 0.3)
    save_model(folder, model, metadata)
    return folder


def raster(path: Path, array: np.ndarray, **options: object) -> Path:
    profile = {
        "driver": "GTiff",
        "count": array.shape[0],
        "height": array.shape[1],
        "width": array.shape[2],
        "dtype": array.dtype.name,
    } | options
    with rasterio.open(path, "w", **profile) as out:
        out.write(array)
    return path


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(50, 30, shape).astype(np.float32)


RUNS = {"run": "semantic-segmentation", "detect": "point-detection", "classify": "classification"}


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """Run ``xt predict`` and return the one line that refuses it."""
    assert main(["predict", *map(str, argv)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("xt: error: ")
    assert error.count("\n") == 1
    return error


def decoding(maps: Callable[[torch.Tensor], dict[str, torch.Tensor]]) -> Callable[..., dict[str, torch.Tensor]]:
    """A model that makes its maps of the image alone, in place of :func:`xt.inference.views.decode`."""

    def decode(model: object, pyramid: Any, window: Any = None) -> dict[str, torch.Tensor]:
        found = maps(pyramid.image)
        return found if window is None else {name: each[..., *window.slices] for name, each in found.items()}

    return decode


def contents(folder: Path) -> dict[str, str]:
    """Files of a folder and their checksums."""
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}
