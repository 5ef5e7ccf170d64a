"""What is in a synthetic scene: sea, land, wind, surface films, vessels, structures. Pure functions of a seed.

Whether a vessel fishes cannot be seen in its own pixels: length, brightness and heading have one distribution. The sea
is divided into districts. Every other one has a fishing ground, rich water whose biogenic film damps the waves and is
dark on radar, with a fleet spread around it; in the others vessels follow lanes. Every vessel is almost two regions
away from the film and from any other thing, so that what decides lies outside its own region.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Floats = npt.NDArray[np.float64]
PIXEL_M = 10.0
CELL = 16
REGION = 64
"""Pixels of a region, the unit of the distances below."""
DISTRICT = 8
SPACING = 1.4
GROUND_RADIUS = 1.25
GROUND_CLEARANCE = 1.75
FLEET_SIZE = 8
FLEET_RADIUS = 5.0
LANES = 6
LANE_STEP = 2.0
STRUCTURES = 2
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
        film: How much of the surface a film covers, 0 to 1, on the same grid.
        objects: What stands out.
    """

    height: int
    width: int
    seed: int
    elevation: Floats
    wind: Floats
    film: Floats
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


def make_world(height: int, width: int, seed: int, region: int = REGION) -> World:
    """Make a scene's world.

    Args:
        height: Rows.
        width: Columns.
        seed: The same seed gives the same world.
        region: Pixels of the regions between which context is needed; distances between vessels follow it.
    """
    rng = np.random.default_rng(seed)
    shape = (-(-height // CELL) + 2, -(-width // CELL) + 2)
    elevation = _smooth(rng, shape, 12.0) - rng.uniform(1.2, 2.2)
    wind = np.clip(7 + 1.5 * _smooth(rng, shape, 32.0), 3, 20)
    film = np.zeros(shape)
    parts: list[Objects] = []
    taken = np.zeros((0, 2))
    for number, box in enumerate(_districts(height, width, region)):
        fishing = (number + seed) % 2 == 1
        center = box[:2] + rng.uniform(0.35, 0.65, 2) * (box[2:] - box[:2])
        if fishing:
            film = np.maximum(film, _ground(shape, center, region))
            groups = [center + _fleet(rng, region)]
        else:
            groups = [_lane(rng, box, region) for _ in range(LANES)]
        lone = box[:2] + rng.uniform(0, 1, (STRUCTURES, 2)) * (box[2:] - box[:2])
        for kind, places, most in [*((1, group, FLEET_SIZE) for group in groups), (0, lone, STRUCTURES)]:
            kept = _allowed(places, taken, box, elevation, SPACING * region, most)
            taken = np.concatenate([taken, kept])
            parts.append(_things(rng, kept, kind, fishing and kind == 1))
    parts.append(_things(rng, _rocks(rng, height, width, elevation), 2, False))
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in Objects.__annotations__}
    return World(height, width, seed, elevation, wind, film, Objects(**columns))


def _districts(height: int, width: int, region: int) -> list[Floats]:
    side = DISTRICT * region
    return [
        np.array([row, col, min(row + side, height), min(col + side, width)], np.float64)
        for row in range(0, height, side)
        for col in range(0, width, side)
    ]


def _smooth(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> Floats:
    field = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="reflect")
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-9))


def _ground(shape: tuple[int, int], center: Floats, region: int) -> Floats:
    rows, cols = (np.arange(num) * float(CELL) for num in shape)
    distance = np.hypot(rows[:, None] - center[0], cols[None, :] - center[1])
    return np.asarray(np.clip((GROUND_RADIUS * region - distance) / CELL + 1, 0, 1))


def _fleet(rng: np.random.Generator, region: int) -> Floats:
    # More than find room; those too close to another thing are left out.
    tried = 8 * FLEET_SIZE
    angle = rng.uniform(0, 2 * np.pi, tried)
    # A film fades over one cell and is interpolated over another.
    inner = (GROUND_RADIUS + GROUND_CLEARANCE) * region + 2 * CELL
    radius = np.sqrt(rng.uniform(inner**2, (FLEET_RADIUS * region) ** 2, tried))
    return np.asarray(radius[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1))


def _lane(rng: np.random.Generator, box: Floats, region: int) -> Floats:
    through = box[:2] + rng.uniform(0.1, 0.9, 2) * (box[2:] - box[:2])
    angle = rng.uniform(0, np.pi)
    reach, step = np.hypot(*(box[2:] - box[:2])), LANE_STEP * region
    along = np.arange(-reach, reach, step) + rng.uniform(0, step)
    along = along + rng.normal(0, step / 20, along.size)
    direction = np.array([np.sin(angle), np.cos(angle)])
    return np.asarray(through + along[:, None] * direction + rng.normal(0, 6, (along.size, 2)))


def _rocks(rng: np.random.Generator, height: int, width: int, elevation: Floats) -> Floats:
    num = max(4, round(60 * height * width / 1024**2))
    places = rng.uniform(0, 1, (num, 2)) * (height, width)
    level = ndimage.map_coordinates(elevation, (places / CELL).T, order=1, mode="nearest")
    return np.asarray(places[(level < 0) & (level > -0.35)])


def _allowed(
    places: Floats, taken: Floats, box: Floats, elevation: Floats, spacing: float, limit: int | None = None
) -> Floats:
    kept: list[Floats] = []
    for place in places:
        if len(kept) == limit:
            break
        if not ((place >= box[:2] + 8) & (place < box[2:] - 8)).all():
            continue
        level = ndimage.map_coordinates(elevation, (place / CELL)[:, None], order=1, mode="nearest")[0]
        others = np.concatenate([taken, np.reshape(kept, (-1, 2))])
        if level < -0.1 and not (np.hypot(*(others - place).T) < spacing).any():
            kept.append(place)
    return np.array(kept).reshape(-1, 2)


def _things(rng: np.random.Generator, places: Floats, kind: int, fishing: bool) -> Objects:
    num = len(places)
    length = np.clip(rng.lognormal(np.log(55), 0.5, num), 15, 350)
    length = {0: np.full(num, 40.0), 1: length, 2: rng.uniform(10, 30, num)}[kind]
    heading = rng.uniform(0, np.pi, num)
    flags = np.full(num, fishing)
    return Objects(places[:, 0], places[:, 1], length, heading, np.full(num, kind, np.int64), flags)
