"""xView3-SAR scenes in the data set's own folders: crops for training, tiles for validation."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from xt.data.base import DataModule
from xt.data.labels import LabelTable, read_labels
from xt.data.loading import Key, sample_rng
from xt.data.shoreline import read_shorelines
from xt.data.source import Source
from xt.data.targets import CENTER_RADIUS, detection_targets
from xt.errors import ConfigError, InputError, at_least, nearest
from xt.geometry.grid import RegionGrid, Window

SAR_BANDS = ("VV_dB", "VH_dB")
COARSE_BANDS = ("bathymetry", "owiMask", "owiWindSpeed", "owiWindDirection", "owiWindQuality")
STATISTICS = {
    "VV_dB": (-16.4, 5.0),
    "VH_dB": (-26.3, 5.0),
    "bathymetry": (0.0, 1000.0),
    "owiMask": (0.0, 1.0),
    "owiWindSpeed": (0.0, 10.0),
    "owiWindDirection": (180.0, 100.0),
    "owiWindQuality": (0.0, 1.0),
}
"""Band → mean and scale. The means of the SAR bands are the data set's, so that the sea lies around 0."""
PAPER_STATISTICS = STATISTICS | {"VV_dB": (-40.0, 15.0), "VH_dB": (-40.0, 15.0)}
"""``(dB + 40) / 15`` for the SAR bands, as in the recipe: the sea lies at 1.56 ± 0.14."""
Statistics = Mapping[str, tuple[float, float]]
NODATA = -32768.0
RESOLUTION_M = 10.0


class XView3Data(DataModule):
    """Crops of scenes in the folders of xView3.

    ``ROOT/{train,validation,test}/SCENE/{VV_dB,VH_dB,…}.tif`` (or ``ROOT/SCENE/…``) with
    ``ROOT/{train,validation,test}.csv`` and, for scores close to the shore, ``ROOT/shoreline``. Training crops mostly
    hold an object; validation and test cover whole scenes tile by tile.

    Args:
        root: Folder of the data.
        image_size: Side of a crop in pixels.
        bands: Channels, by file name without ``.tif``.
        batch_size: Crops of a batch.
        num_workers: Loader processes.
        seed: Of crops and order.
        centred: Share of training crops that hold an object.
        crops_per_scene: Training crops of each scene in an epoch.
        drop_bad_labels: Leave bad label rows out instead of failing.
        limit_scenes: Use only so many scenes of each split.
        statistics: ``default`` brings the sea to 0; ``paper`` is ``(dB + 40) / 15``.
    """

    nodata = NODATA
    resolution = RESOLUTION_M

    def __init__(
        self,
        root: str,
        image_size: int = 4096,
        bands: tuple[str, ...] = SAR_BANDS,
        batch_size: int = 1,
        num_workers: int = 0,
        seed: int = 0,
        centred: float = 0.85,
        crops_per_scene: int = 4,
        drop_bad_labels: bool = False,
        limit_scenes: int | None = None,
        statistics: Literal["default", "paper"] = "default",
    ) -> None:
        super().__init__(root, image_size, batch_size, num_workers, seed)
        unknown = [band for band in bands if band not in STATISTICS]
        if unknown:
            raise ConfigError(f"data.init_args.bands: no band {unknown[0]!r}{nearest(unknown[0], STATISTICS)}")
        if not set(bands) & set(SAR_BANDS):
            raise ConfigError(
                f"data.init_args.bands: one of {', '.join(SAR_BANDS)} is needed, for the grid of the scene"
            )
        self.bands = tuple(bands)
        self.coarse = tuple(band for band in bands if band in COARSE_BANDS)
        self.statistics = PAPER_STATISTICS if statistics == "paper" else STATISTICS
        self.mean = tuple(self.statistics[band][0] for band in bands)
        self.std = tuple(self.statistics[band][1] for band in bands)
        self.centred, self.crops_per_scene = centred, crops_per_scene
        self.drop_bad_labels, self.limit_scenes = drop_bad_labels, limit_scenes
        at_least(1, "data.init_args", crops_per_scene=crops_per_scene, limit_scenes=limit_scenes)
        if not 0 <= centred <= 1:
            raise ConfigError(f"data.init_args.centred is {centred}; it must lie between 0 and 1")

    def setup(self, stage: str) -> None:
        """Find the scenes, and read the labels of the splits that a stage needs and the shorelines."""
        super().setup(stage)
        folder = self.root / "shoreline"
        if self.shoreline is None and folder.is_dir():
            self.shoreline = read_shorelines(folder)

    def dataset(self, split: str) -> "SceneCrops":
        """Find the scenes of a split and read their labels."""
        labels_path = self.root / f"{split}.csv"
        if not labels_path.is_file():
            raise InputError(
                f"data: no {labels_path}; set data.init_args.root to a folder of xView3-SAR (iuu.xview.us), or make "
                f"one: xt synth xview3 {self.root} --scenes 8 --size {self.image_size}"
            )
        labels = read_labels(labels_path, self.drop_bad_labels)
        folder = self.root / split
        folder = folder if folder.is_dir() else self.root
        names = sorted(path.parent.name for path in folder.glob("*/VH_dB.tif"))
        if folder == self.root:
            names = [name for name in names if name in set(labels.scenes)]
        if not names:
            raise InputError(f"data: no scene folder with VH_dB.tif in {folder}; each scene is a folder of its own")
        readers = [Source(folder / name, self.inputs) for name in names[: self.limit_scenes]]
        tables = [labels.scene(reader.name) for reader in readers]
        crops = self.crops_per_scene if split == "train" else None
        return SceneCrops(readers, tables, self.image_size, self.seed, self.centred, crops)


class SceneCrops(Dataset[dict[str, Any]]):
    """Crops or, with ``crops_per_scene`` None, all tiles of scenes."""

    def __init__(
        self,
        readers: list[Source],
        labels: list[LabelTable],
        image_size: int,
        seed: int,
        centred: float,
        crops_per_scene: int | None,
    ) -> None:
        self.readers, self.labels, self.image_size = readers, labels, image_size
        self.seed, self.centred, self.crops_per_scene = seed, centred, crops_per_scene
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
            turn = False
        else:
            rng = sample_rng(self.seed, key)
            scene = key[1] % len(self.readers)
            window = self._crop(rng, scene)
            turn = bool(rng.random() < 0.5)
        reader, labels = self.readers[scene], self.labels[scene]
        pixels, valid = reader.read(window)
        local = replace(labels, row=labels.row - window.row, column=labels.column - window.col)
        size, reach = self.image_size, CENTER_RADIUS
        near = (
            (local.row > -reach) & (local.row < size + reach) & (local.column > -reach) & (local.column < size + reach)
        )
        targets = detection_targets(local.select(near), size, size)
        inside = _within(local, 0, size)
        sample: dict[str, Any] = {"image": pixels, "valid": valid[None], "targets": targets}
        if turn:
            sample = _turned(sample)
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


def _within(table: LabelTable, low: int, high: int) -> npt.NDArray[np.bool_]:
    places = np.stack([table.row, table.column])
    return np.asarray(((places >= low) & (places < high)).all(axis=0))


def _turned(sample: dict[str, Any]) -> dict[str, Any]:
    # By 180°: the only turn that keeps the radar's look direction plausible, as in the recipe.
    turned: dict[str, Any] = {}
    for key, value in sample.items():
        turned[key] = _turned(value) if isinstance(value, dict) else np.ascontiguousarray(value[:, ::-1, ::-1])
    return turned
