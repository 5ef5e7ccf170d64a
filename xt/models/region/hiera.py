"""Weights of Hiera (arXiv 2306.00989) for regions of any size.

timm resamples the positions of other backbones when weights of another image size are loaded, and refuses those of
Hiera.
"""

import math
from typing import Any

import timm
from timm.layers import resample_abs_pos_embed
from torch import Tensor

PATCH = 4
TABLES = ("pos_embed", "pos_embed_abs")
"""Names of the table of positions, in timm's weights and in those of the release."""


def with_positions(name: str, region_size: int, options: dict[str, Any]) -> dict[str, Any]:
    """Give arguments of ``timm.create_model`` for a Hiera whose weights fit regions of ``region_size`` px.

    Arguments for another model, or without weights, come back as they are.

    Raises:
        OSError: If weights cannot be had from the hub; RuntimeError as well.
    """
    entrypoint = timm.model_entrypoint(name.split(".")[0])
    if not options["pretrained"] or entrypoint.__module__ != "timm.models.hiera":
        return options
    overlay = options["pretrained_cfg_overlay"]
    if overlay is None:
        # At the size and with the channels of the hub; what is adapted is adapted once.
        left_out = ("features_only", "out_indices", "in_chans", "pretrained_cfg_overlay")
        native = {key: value for key, value in options.items() if key not in left_out}
        state = timm.create_model(name, **native).state_dict()
    else:
        state = overlay["state_dict"]
    fitted = {key: _resampled(value, region_size) if key in TABLES else value for key, value in state.items()}
    return options | {"pretrained_cfg_overlay": (overlay or {}) | {"state_dict": fitted}}


def _resampled(table: Tensor, region_size: int) -> Tensor:
    """Positions ``(1, N, D)`` of a square of tokens for a square region; a table that timm resamples is left alone."""
    if table.ndim != 3 or math.isqrt(table.shape[1]) ** 2 != table.shape[1]:
        return table
    side = region_size // PATCH
    resampled: Tensor = resample_abs_pos_embed(table, [side, side], num_prefix_tokens=0)
    return resampled
