"""From maps of point detection to points, and thresholds tuned on validation."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from xt.data.labels import LabelTable
from xt.data.targets import LENGTH_SCALE_M, CenterActivation
from xt.errors import CheckpointError, nearest
from xt.metrics.xview3 import score

Maps = Mapping[str, npt.NDArray[np.float32]]
MIN_CENTER = 50.0
"""Components are of pixels above this, of 255."""
AROUND = 4
"""Pixels around a centre that decide about its flags and length."""


@dataclass(frozen=True)
class Thresholds:
    """Decisions of the post-processing, on the scale 0..255 of the targets; the defaults are the released ones.

    Attributes:
        center: A component is an object if its highest centre value exceeds this.
        vessel: It is a vessel if more than ``pixels`` of its surroundings exceed this.
        fishing: Likewise.
        pixels: See above.
    """

    center: float = 100.0
    vessel: float = 100.0
    fishing: float = 100.0
    pixels: float = 8.0

    def to_dict(self) -> dict[str, float]:
        """Return name → value."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, float]) -> "Thresholds":
        """Read what :meth:`to_dict` gave; missing names keep their defaults.

        Raises:
            CheckpointError: If a name is unknown.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise CheckpointError(f"no threshold is named {name!r}{nearest(name, known)}")
        return cls(**values)


@dataclass(frozen=True)
class Candidates:
    """Components of the centre map with what decides about them.

    Attributes:
        table: Place and length; the score is the highest centre value in 0..255.
        vessel: The value that decides the vessel flag; NaN where none is known.
        fishing: The value that decides the fishing flag; likewise.
    """

    table: LabelTable
    vessel: npt.NDArray[np.float64]
    fishing: npt.NDArray[np.float64]

    def decide(self, thresholds: Thresholds) -> LabelTable:
        """Keep the objects and set their flags."""
        keep = self.table.score > thresholds.center
        is_vessel = _above(self.vessel, thresholds.vessel)
        is_fishing = _above(self.fishing, thresholds.fishing) * is_vessel
        return replace(self.table, is_vessel=is_vessel, is_fishing=is_fishing).select(keep)

    @classmethod
    def concatenate(cls, parts: list["Candidates"]) -> "Candidates":
        """Join candidates."""
        if not parts:
            return cls(LabelTable.build(0), np.zeros(0), np.zeros(0))
        tables = LabelTable.concatenate([part.table for part in parts])
        return cls(tables, np.concatenate([p.vessel for p in parts]), np.concatenate([p.fishing for p in parts]))


def scaled(raw: Maps, center_activation: CenterActivation) -> dict[str, npt.NDArray[np.float32]]:
    """Bring raw head outputs ``(H, W)`` to the scale of the targets: 0..255, and metres for ``length``.

    Args:
        raw: Head → output.
        center_activation: Of the loss that the centre was learnt with.
    """
    maps = {name: 255 / (1 + np.exp(-np.clip(raw[name], -60, 60))) for name in ("center", "vessel", "fishing")}
    if center_activation == "linear":
        maps["center"] = np.clip(255 * raw["center"], 0, 255)
    maps["length"] = np.maximum(LENGTH_SCALE_M * raw["length"], 0)
    return {name: values.astype(np.float32) for name, values in maps.items()}


def find_candidates(
    maps: Maps,
    scene_id: str = "",
    origin: tuple[int, int] = (0, 0),
    min_center: float = MIN_CENTER,
    pixels: int = 8,
    last_rows: range | None = None,
) -> Candidates:
    """Find connected components of the centre map.

    The released rule calls an object a vessel if more than 8 pixels exceed a threshold; that is to compare the
    ninth highest value around it with the threshold. That value is kept, so that the threshold can be tuned.

    Args:
        maps: ``center``, ``vessel``, ``fishing`` in 0..255 and ``length`` in metres, each ``(H, W)``; what all but the
            centre tell is unknown where they are missing.
        scene_id: Of the points.
        origin: Row and column of the maps in the scene.
        min_center: Components are of pixels above this.
        pixels: Of the rule.
        last_rows: Take components only whose last row in the maps is one of these.
    """
    labelled, _ = ndimage.label(maps["center"] > min_center, structure=np.ones((3, 3), int))
    boxes = [
        (label, box)
        for label, box in enumerate(ndimage.find_objects(labelled), start=1)
        if last_rows is None or box[0].stop - 1 in last_rows
    ]
    num = len(boxes)
    rows, cols, peaks = (np.zeros(num) for _ in range(3))
    lengths, vessel, fishing = (np.full(num, np.nan) for _ in range(3))
    flags = {name: values for name, values in (("vessel", vessel), ("fishing", fishing)) if name in maps}
    for index, (label, box) in enumerate(boxes):
        inside = labelled[box] == label
        weights = maps["center"][box] * inside
        row, col = ndimage.center_of_mass(weights)
        rows[index], cols[index] = box[0].start + row, box[1].start + col
        peaks[index] = weights.max()
        around = _around(rows[index], cols[index], labelled.shape)
        if "length" in maps:
            lengths[index] = maps["length"][around].max()
        for name, values in flags.items():
            nearby = maps[name][around].ravel()
            rank = min(pixels, nearby.size - 1)
            values[index] = np.partition(nearby, nearby.size - 1 - rank)[nearby.size - 1 - rank]
    table = LabelTable.build(
        num,
        row=rows + origin[0],
        column=cols + origin[1],
        scene_id=np.full(num, scene_id),
        vessel_length_m=lengths,
        score=peaks,
    )
    return Candidates(table, vessel, fishing)


def find_in_strips(read: Callable[[int, int], Maps], height: int, scene_id: str = "", strip: int = 2048) -> Candidates:
    """Find the components of maps that are too high to be held, each once and whole.

    A component that reaches the end of what was read is left to the next strip, which then begins above it; one of more
    than four strips is cut.

    Args:
        read: Gives the maps from one row to another.
        height: Rows in all.
        scene_id: Of the points.
        strip: Rows that are added at a time.
    """
    found, top, done = [], 0, 0
    for start in range(0, height, strip):
        stop = min(start + strip, height)
        maps = read(top, stop)
        # What decides about an object lies up to AROUND pixels below its centre.
        limit = height if stop == height else max(stop - AROUND, done)
        found.append(find_candidates(maps, scene_id, (top, 0), last_rows=range(done - top, limit - top)))
        open_rows = _first_row_open(maps["center"], limit - top)
        top, done = max(min(top + open_rows, limit) - AROUND, stop - 4 * strip, 0), limit
    return Candidates.concatenate(found)


def _first_row_open(center: npt.NDArray[np.float32], limit: int) -> int:
    """First row of the components that have a pixel at row ``limit`` or below; the height if none has."""
    labelled, _ = ndimage.label(center > MIN_CENTER, structure=np.ones((3, 3), int))
    first = [box[0].start for box in ndimage.find_objects(labelled) if box[0].stop > limit]
    return min(first, default=len(center))


def tune(candidates: Candidates, labels: LabelTable) -> Thresholds:
    """Choose each head's threshold by its own F1 on labelled scenes; of equals the one nearest the default."""
    best = Thresholds()
    grid = sorted(range(50, 250, 5), key=lambda value: abs(value - 100))
    for name, metric in (("center", "loc_fscore"), ("vessel", "vessel_fscore"), ("fishing", "fishing_fscore")):
        values = []
        for value in grid:
            tried = replace(best, **{name: float(value)})
            values.append(getattr(score(candidates.decide(tried), labels), metric))
        best = replace(best, **{name: float(grid[int(np.argmax(values))])})
    return best


def _above(values: npt.NDArray[np.float64], threshold: float) -> npt.NDArray[np.float64]:
    return np.where(np.isnan(values), np.nan, values > threshold)


def _around(row: float, col: float, shape: tuple[int, ...], radius: int = AROUND) -> tuple[slice, slice]:
    top, left = max(round(row) - radius, 0), max(round(col) - radius, 0)
    return slice(top, min(round(row) + radius + 1, shape[0])), slice(left, min(round(col) + radius + 1, shape[1]))
