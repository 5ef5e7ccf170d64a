"""Features of small scenes on disk, and models that mix them."""

from pathlib import Path

import torch
from parts import BothWays, Fading, MeanContext, small_model
from torch import Tensor

from xt.geometry.grid import RegionGrid
from xt.inference.feature_store import FeatureStore
from xt.models.context.base import ContextEncoder
from xt.models.context.hyper import Hyper
from xt.models.context.identity import Identity
from xt.models.context.mamba import Mamba
from xt.models.context.transformer_xl import TransformerXL
from xt.models.xt import XT

CHANNELS, STRIDE, SIZE = 32, 32, 64  # of small_model: 2 × 2 tokens in a region
CONTEXTS = {
    **{f"Mamba {depth}": lambda depth=depth: Mamba(16, depth) for depth in (1, 2, 3, 4)},
    "TransformerXL": lambda: TransformerXL(16, chunk_regions=3, head_dim=8),
    "Fading": lambda: Fading(16),
    "BothWays": lambda: BothWays(16),
    "Identity": lambda: Identity(16),
    "Hyper": lambda: Hyper(16, head_dim=8, block_size=8, sample_size=8, min_seq_len=32),
    "MeanContext": lambda: MeanContext(16),
}


def model_with(context: ContextEncoder, dtype: torch.dtype = torch.float32) -> XT:
    model = small_model(context=context).eval()
    # Not a projection that hides what the context says.
    torch.nn.init.normal_(model.context.output_proj.weight, std=0.3)
    return model.to(dtype)


def stores(folder: Path, features: Tensor, grid: RegionGrid, exists: tuple[bool, ...] | None) -> list[FeatureStore]:
    """The features of all regions that exist, and an empty store of the same shape."""
    layout = grid.layout(STRIDE, exists)
    made = [FeatureStore.create(folder / name, CHANNELS, layout, features.dtype) for name in ("features", "out")]
    for index in range(grid.num_regions):
        if exists is None or exists[index]:
            made[0].write(index, features[0][(..., *place(grid, index))])
    return made


def place(grid: RegionGrid, index: int) -> tuple[slice, slice]:
    window = grid.window(index)
    row, col, side = window.row // STRIDE, window.col // STRIDE, SIZE // STRIDE
    return slice(row, row + side), slice(col, col + side)


def random_features(grid: RegionGrid, exists: tuple[bool, ...] | None, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(grid.num_regions)
    shape = (1, CHANNELS, grid.padded_height // STRIDE, grid.padded_width // STRIDE)
    features = torch.randn(shape, generator=generator).to(dtype)
    for index, there in enumerate(exists or ()):
        features[(..., *place(grid, index))] *= there
    return features
