"""How an image is predicted, and what happened to it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from xt.errors import ConfigError, nearest
from xt.geometry.blend import Blend
from xt.geometry.grid import Window
from xt.inference.precision import Precision

Context = Literal["windows", "full"]
Augmentation = Literal["none", "flips", "d4"]


@dataclass(frozen=True)
class PredictOptions:
    """How an image is predicted.

    Attributes:
        context: Over what the context mixes: ``windows`` of the size that the model was trained on, or the ``full``
            scene.
        tile: Side of the windows over which the context mixes, in pixels, rounded up to whole regions; the model's
            training size by default.
        overlap: Pixels that neighbouring windows share, rounded up to whole regions; by default an eighth of a window,
            and at least one region.
        blend: How what they say fades into each other.
        bands: 1-based bands; all by default.
        nodata: Value that is no data.
        aoi: File of polygons; pixels whose centre lies in none have no data.
        mask: Raster on the image's grid; pixels where it is 0 or has no data have no data.
        crop: Pixels to predict; the result has their grid. All by default.
        complex_abs: Take complex samples by their absolute value.
        fill_bad_tiles: Give regions that cannot be read nodata instead of failing.
        overwrite: Replace outputs.
        restart: Begin anew where an earlier run of other options was cut off.
        max_memory: Bytes that the process may take; None for :data:`~xt.inference.predict.BUDGET` of encoded regions
            beside the model's work.
        creation: Creation options of GDAL (:mod:`xt.inference.creation`).
        tta: Views whose mean is published: ``none`` but the image as it is, ``flips`` (4), or all of ``d4`` (8).
        share: Which part of the scene is worked on, and of how many; all by default.
        precision: In which the model computes.

    Raises:
        ConfigError: If a word is none of those that an option takes, or a window has no side.
    """

    context: Context = "windows"
    tile: int | None = None
    overlap: int | None = None
    blend: Blend = "cosine"
    bands: tuple[int, ...] | None = None
    nodata: float | None = None
    aoi: Path | None = None
    mask: Path | None = None
    crop: Window | None = None
    complex_abs: bool = False
    fill_bad_tiles: bool = False
    overwrite: bool = False
    restart: bool = False
    max_memory: int | None = None
    creation: dict[str, str] = field(default_factory=dict)
    tta: Augmentation = "none"
    share: tuple[int, int] = (1, 1)
    precision: Precision = "fp32"

    @property
    def limits(self) -> list[Path]:
        """Files that are read beside the image: they say what counts of it."""
        return [path for path in (self.aoi, self.mask) if path is not None]

    def __post_init__(self) -> None:
        """Check words, which no type does at run time."""
        for name, words in (
            ("context", Context), ("blend", Blend), ("tta", Augmentation), ("precision", Precision),
        ):  # fmt: skip
            given, known = getattr(self, name), get_args(words)
            if given not in known:
                raise ConfigError(f"{name} is {given!r}{nearest(str(given), known)}")
        if self.tile is not None and self.tile < 1:
            raise ConfigError(f"tile is {self.tile} px; it must be at least 1")


@dataclass
class Summary:
    """What happened to an image."""

    image: str
    output: str
    regions: int = 0
    empty_regions: int = 0
    bad_regions: int = 0
    points: int | None = None
    label: str | None = None
    score: float | None = None
