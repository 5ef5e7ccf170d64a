"""Samples of point detection: crops or tiles of scenes, their objects, and the targets that are drawn of them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from xt.data.labels import LabelTable
from xt.data.loading import Key, sample_rng
from xt.data.source import Source
from xt.data.targets import CENTER_SIGMA, center_radius, class_targets, detection_targets
from xt.geometry.grid import RegionGrid, Window

Array = npt.NDArray[Any]
View = Callable[[Array], Array]

VIEWS: tuple[View, ...] = (
    lambda values: values[:, ::-1, ::-1],
    lambda values: values[:, ::-1],
    lambda values: values.swapaxes(1, 2),
)
"""By 180°, the only turn that keeps the radar's look direction plausible, as in the recipe; mirrored, transposed."""


class SceneCrops(Dataset[dict[str, Any]]):
    """Crops or, with ``crops_per_scene`` None, all tiles of scenes.

    ``gain`` is the deviation of the logarithm of the factor on the raw values of a crop, drawn anew for each;
    ``center_sigma`` is that of :func:`~xt.data.targets.detection_targets`. With ``flips`` a crop is seen in any of
    eight ways, without in two. With ``classes`` targets are those of :func:`~xt.data.targets.class_targets`.
    """

    def __init__(
        self,
        readers: list[Source],
        labels: list[LabelTable],
        image_size: int,
        seed: int,
        centred: float,
        crops_per_scene: int | None,
        gain: float = 0.0,
        center_sigma: float = CENTER_SIGMA,
        flips: bool = False,
        classes: Sequence[str] = (),
    ) -> None:
        self.readers, self.labels, self.image_size = readers, labels, image_size
        self.seed, self.centred, self.crops_per_scene, self.gain = seed, centred, crops_per_scene, gain
        self.center_sigma, self.flips, self.classes = center_sigma, flips, classes
        self.tiles = [
            (scene, window)
            for scene, reader in enumerate(readers)
            for window in RegionGrid(reader.height, reader.width, image_size).windows()
        ]

    def __len__(self) -> int:
        return len(self.tiles) if self.crops_per_scene is None else len(self.readers) * self.crops_per_scene

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """Return the sample of ``(epoch, index)``."""
        if self.crops_per_scene is None:
            scene, window = self.tiles[key[1]]
            views, gain = [], 1.0
        else:
            rng = sample_rng(self.seed, key)
            scene = key[1] % len(self.readers)
            window = self._crop(rng, scene)
            drawn = rng.random(len(VIEWS) if self.flips else 1) < 0.5
            views = [view for view, taken in zip(VIEWS, drawn, strict=False) if taken]
            gain = float(np.exp(rng.normal(0, self.gain))) if self.gain else 1.0
        reader, labels = self.readers[scene], self.labels[scene]
        pixels, valid = reader.read(window, gain)
        local = replace(labels, row=labels.row - window.row, column=labels.column - window.col)
        size, reach = self.image_size, center_radius(self.center_sigma)
        near = (
            (local.row > -reach) & (local.row < size + reach) & (local.column > -reach) & (local.column < size + reach)
        )
        targets = (
            class_targets(local.select(near), self.classes, size, size, self.center_sigma)
            if self.classes
            else detection_targets(local.select(near), size, size, self.center_sigma)
        )
        inside = _within(local, size)
        sample: dict[str, Any] = {"image": pixels, "valid": valid[None], "targets": targets}
        for view in views:
            sample = _seen(sample, view)
        name = f"{reader.name} rows {window.row}– columns {window.col}–"
        return sample | {
            "name": name,
            "scene_id": reader.name,
            "origin": (window.row, window.col),
            "points": labels.select(inside),
        }

    def _crop(self, rng: np.random.Generator, scene: int) -> Window:
        reader, labels, size = self.readers[scene], self.labels[scene], self.image_size
        rows, cols = max(reader.height - size, 0), max(reader.width - size, 0)
        row, col = int(rng.integers(rows + 1)), int(rng.integers(cols + 1))
        if len(labels) and rng.random() < self.centred:
            chosen = int(rng.integers(len(labels)))
            # Anywhere in the crop, so that a model cannot learn that objects are in the middle.
            row = int(np.clip(labels.row[chosen] - rng.integers(size), 0, rows))
            col = int(np.clip(labels.column[chosen] - rng.integers(size), 0, cols))
        return Window(row, col, size, size)


def _within(table: LabelTable, size: int) -> npt.NDArray[np.bool_]:
    """Which objects lie on a pixel of a square."""
    places = np.stack([table.row, table.column]) + 0.5
    return np.asarray(((places >= 0) & (places < size)).all(axis=0))


def _seen(sample: dict[str, Any], view: View) -> dict[str, Any]:
    return {
        key: _seen(value, view) if isinstance(value, dict) else np.ascontiguousarray(view(value))
        for key, value in sample.items()
    }
