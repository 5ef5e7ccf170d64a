"""xView3-SAR scenes in the data set's own folders: crops for training, tiles for validation."""

from collections.abc import Mapping
from typing import Literal

from xt.data.base import DataModule
from xt.data.labels import check_scenes, read_labels
from xt.data.scene_crops import SceneCrops
from xt.data.shoreline import read_shorelines
from xt.data.source import Source
from xt.data.splits import ROOT
from xt.errors import ConfigError, InputError, at_least, nearest

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

    gives = "points"
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

    def dataset(self, split: str) -> SceneCrops:
        """Find the scenes of a split and read their labels."""
        labels_path = self.root / f"{split}.csv"
        if not labels_path.is_file():
            raise InputError(
                f"data: no {labels_path.absolute()}; {ROOT} a folder of xView3-SAR (iuu.xview.us), or make "
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
        check_scenes(labels_path, labels, names)
        readers = [Source(folder / name, self.inputs) for name in names[: self.limit_scenes]]
        tables = [labels.scene(reader.name) for reader in readers]
        crops = self.crops_per_scene if split == "train" else None
        return SceneCrops(readers, tables, self.image_size, self.seed, self.centred, crops)
