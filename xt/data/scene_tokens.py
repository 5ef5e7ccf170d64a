"""Tokens on disk: the last-stage map of a whole scene as a memory-mappable array, and what made it.

``SCENE.npy`` holds ``(C, h, w)`` float16, ``SCENE.json`` the grid, which regions exist, and the hash of the encoder.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from xt.data.labels import LabelTable
from xt.data.loading import Key, sample_rng
from xt.data.source import Source
from xt.data.targets import cell_targets
from xt.errors import InputError
from xt.geometry.grid import RegionGrid

Values = npt.NDArray[np.float16]


@dataclass(frozen=True)
class TokenFacts:
    """What is known of a scene's tokens beside their values.

    Attributes:
        scene: Name of the scene.
        height: Rows of the scene in pixels.
        width: Columns of the scene in pixels.
        region_size: Side of a region in pixels.
        stride: Pixels per token.
        channels: Of a token.
        exists: One flag per region; the tokens of others are 0.
        encoder: SHA-256 of the region encoder and of what it is fed with.
        model: Metadata of the model, as :meth:`ModelMetadata.to_dict` gives them.
        precision: In which the encoder computed, ``fp32`` or ``bf16``.
        source: The image as it was, and how it was read, as :func:`source_facts` gives them; None of older files.
    """

    scene: str
    height: int
    width: int
    region_size: int
    stride: int
    channels: int
    exists: tuple[bool, ...]
    encoder: str
    model: dict[str, Any]
    precision: Literal["fp32", "bf16"] = "fp32"
    source: dict[str, Any] | None = None

    @property
    def grid(self) -> RegionGrid:
        """The regions."""
        return RegionGrid(self.height, self.width, self.region_size)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the array."""
        grid = self.grid
        return self.channels, grid.padded_height // self.stride, grid.padded_width // self.stride

    def to_json(self) -> str:
        """Return what :func:`read_facts` reads."""
        return json.dumps(asdict(self)) + "\n"


def source_facts(source: Source) -> dict[str, Any]:
    """Tell an image by its files, wherever they lie, and how it is read: what JSON can hold."""
    files = [[path.name, *state] for path, state in source.fingerprint]
    return {"files": files, "bands": list(source.indexes), "nodata": list(source.nodata)}


def read_facts(path: Path) -> TokenFacts:
    """Read ``SCENE.json``.

    Raises:
        InputError: If it is missing or not of xt features.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return TokenFacts(**{**values, "exists": tuple(map(bool, values["exists"]))})
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; xt features writes it") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is not of xt features ({error}); write it again with --overwrite") from error


def open_tokens(path: Path, facts: TokenFacts) -> Values:
    """Map ``SCENE.npy`` into memory; pixels are read when they are used.

    Raises:
        InputError: If it is missing, is no array, or has another shape than its facts say.
    """
    try:
        values: Values = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; xt features writes it") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({error}); write it again with --overwrite") from error
    if values.shape != facts.shape or values.dtype != np.float16:
        raise InputError(f"{path} holds {values.dtype} {values.shape}, its .json says float16 {facts.shape}")
    return values


class SceneTokens(Dataset[dict[str, Any]]):
    """Scenes as ``tokens (C, h, w)`` and ``cells``, each ``(1, h, w)`` float32."""

    def __init__(self, scenes: list[tuple[Path, TokenFacts]], labels: LabelTable, seed: int, flip: bool) -> None:
        self.scenes, self.labels, self.seed, self.flip = scenes, labels, seed, flip

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """Return the sample of ``(epoch, index)``."""
        path, facts = self.scenes[key[1]]
        tokens = np.asarray(open_tokens(path, facts), np.float32)
        grid, side = facts.grid, facts.region_size // facts.stride
        exists = np.reshape(facts.exists, (grid.rows, grid.cols))
        cells = cell_targets(self.labels.scene(facts.scene), tokens.shape[1], tokens.shape[2], facts.stride)
        cells["seen"] = np.kron(exists, np.ones((side, side)))[None].astype(np.float32)
        if self.flip:
            rng = sample_rng(self.seed, key)
            for axis in [axis for axis in (-2, -1) if rng.random() < 0.5]:
                tokens, exists = np.flip(tokens, axis), np.flip(exists, axis)
                cells = {name: np.flip(each, axis) for name, each in cells.items()}
        return {
            "tokens": np.ascontiguousarray(tokens),
            "exists": np.ascontiguousarray(exists),
            "cells": {name: np.ascontiguousarray(each) for name, each in cells.items()},
            "name": facts.scene,
        }
