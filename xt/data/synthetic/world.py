"""What is in a synthetic scene: sea, land, wind, vessels, structures. Pure functions of a seed.

Whether a vessel fishes cannot be seen in its own pixels: length, brightness and heading have one distribution. Fishing
vessels lie in fleets, spread over some hundred pixels; the others follow lanes. Vessels keep apart by more than
``SPACING`` pixels, so the answer lies outside a vessel's own surroundings.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Floats = npt.NDArray[np.float64]
PIXEL_M = 10.0
CELL = 64
SPACING = 100.0
FLEET_RADIUS = 330.0
FLEET_SIZE = 9
FLEET_CLEARANCE = 400.0
LANE_STEP = 420.0
COARSE = 50


@dataclass(frozen=True)
class Objects:
    """Things that a radar sees; columns of equal length.

    Attributes:
        row: Pixels.
        column: Pixels.
        length_m: Metres.
        heading: Radians.
        kind: 0 structure, 1 vessel, 2 rock (never labelled).
        fishing: Whether a vessel fishes.
    """

    row: Floats
    column: Floats
    length_m: Floats
    heading: Floats
    kind: npt.NDArray[np.int64]
    fishing: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class World:
    """A scene before the radar looks at it.

    Attributes:
        height: Rows.
        width: Columns.
        seed: Of everything.
        elevation: Height above the sea on a grid of :data:`CELL` pixels, any unit; land is above 0.
        wind: Wind speed in m/s on the same grid.
        objects: What stands out.
    """

    height: int
    width: int
    seed: int
    elevation: Floats
    wind: Floats
    objects: Objects

    def sample(self, field: Floats, rows: Floats, cols: Floats) -> Floats:
        """Interpolate a coarse field at pixel rows × columns."""
        grid = np.meshgrid(rows / CELL, cols / CELL, indexing="ij")
        values: Floats = ndimage.map_coordinates(field, grid, order=1, mode="nearest")
        return values

    def at(self, field: Floats, rows: Floats, cols: Floats) -> Floats:
        """Interpolate a coarse field at points."""
        values: Floats = ndimage.map_coordinates(field, [rows / CELL, cols / CELL], order=1, mode="nearest")
        return values


def make_world(height: int, width: int, seed: int) -> World:
    """Make a scene's world.

    Args:
        height: Rows.
        width: Columns.
        seed: The same seed gives the same world.
    """
    rng = np.random.default_rng(seed)
    shape = (-(-height // CELL) + 2, -(-width // CELL) + 2)
    elevation = _smooth(rng, shape, 6.0) - rng.uniform(0.9, 1.6)
    wind = np.clip(7 + 2.5 * _smooth(rng, shape, 8.0), 1.5, 20)
    parts: list[Objects] = []
    taken = np.zeros((0, 2))
    area = height * width / 1024**2
    for fishing in (True, False):
        for _ in range(max(1, round((1 if fishing else 10) * area))):
            places = _fleet(rng, height, width) if fishing else _lane(rng, height, width)
            # Lanes keep clear of fishing grounds.
            places = _allowed(places, taken, height, width, elevation, SPACING if fishing else FLEET_CLEARANCE)
            taken = np.concatenate([taken, places])
            parts.append(_things(rng, places, 1, fishing))
    for _ in range(max(1, round(0.5 * area))):
        places = _allowed(_farm(rng, height, width), taken, height, width, elevation, spacing=30)
        taken = np.concatenate([taken, places])
        parts.append(_things(rng, places, 0, False))
    parts.append(_things(rng, _rocks(rng, height, width, elevation), 2, False))
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in Objects.__annotations__}
    return World(height, width, seed, elevation, wind, Objects(**columns))


def _smooth(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> Floats:
    field = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="reflect")
    return np.asarray(field / max(float(field.std()), 1e-9))


def _fleet(rng: np.random.Generator, height: int, width: int) -> Floats:
    center = rng.uniform(0, 1, 2) * (height, width)
    angle = rng.uniform(0, 2 * np.pi, FLEET_SIZE)
    radius = FLEET_RADIUS * np.sqrt(rng.uniform(0, 1, FLEET_SIZE))
    return np.asarray(center + radius[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1))


def _lane(rng: np.random.Generator, height: int, width: int) -> Floats:
    through = rng.uniform(0.1, 0.9, 2) * (height, width)
    angle = rng.uniform(0, np.pi)
    reach = np.hypot(height, width)
    along = np.arange(-reach, reach, LANE_STEP) + rng.uniform(0, LANE_STEP)
    along = along + rng.normal(0, 25, along.size)
    direction = np.array([np.sin(angle), np.cos(angle)])
    return np.asarray(through + along[:, None] * direction + rng.normal(0, 6, (along.size, 2)))


def _farm(rng: np.random.Generator, height: int, width: int) -> Floats:
    corner = rng.uniform(0, 0.9, 2) * (height, width)
    rows, cols = np.meshgrid(np.arange(3), np.arange(4), indexing="ij")
    return np.asarray(corner + 70.0 * np.stack([rows.ravel(), cols.ravel()], axis=1))


def _rocks(rng: np.random.Generator, height: int, width: int, elevation: Floats) -> Floats:
    num = max(4, round(60 * height * width / 1024**2))
    places = rng.uniform(0, 1, (num, 2)) * (height, width)
    level = ndimage.map_coordinates(elevation, (places / CELL).T, order=1, mode="nearest")
    return np.asarray(places[(level < 0) & (level > -0.35)])


def _allowed(
    places: Floats, taken: Floats, height: int, width: int, elevation: Floats, spacing: float = SPACING
) -> Floats:
    kept: list[Floats] = []
    for place in places:
        if not (8 <= place[0] < height - 8 and 8 <= place[1] < width - 8):
            continue
        level = ndimage.map_coordinates(elevation, (place / CELL)[:, None], order=1, mode="nearest")[0]
        near = [other for other in [*taken, *kept] if np.hypot(*(other - place)) < spacing]
        if level < -0.1 and not near:
            kept.append(place)
    return np.array(kept).reshape(-1, 2)


def _things(rng: np.random.Generator, places: Floats, kind: int, fishing: bool) -> Objects:
    num = len(places)
    length = np.clip(rng.lognormal(np.log(55), 0.5, num), 15, 350)
    length = {0: np.full(num, 40.0), 1: length, 2: rng.uniform(10, 30, num)}[kind]
    heading = rng.uniform(0, np.pi, num)
    flags = np.full(num, fishing)
    return Objects(places[:, 0], places[:, 1], length, heading, np.full(num, kind, np.int64), flags)
