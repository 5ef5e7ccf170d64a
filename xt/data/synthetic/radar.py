"""How a Sentinel-1-like radar sees a world: speckle, wind, land, and bright objects; a band of rows at a time."""

import numpy as np
import numpy.typing as npt

from xt.data.synthetic.world import PIXEL_M, Floats, World

BAND_ROWS = 256
LOOKS = 4.4
"""Equivalent number of looks of Sentinel-1 IW GRD."""
SEA_DB = {"VV_dB": -16.6, "VH_dB": -26.5}
LAND_DB = {"VV_dB": -9.0, "VH_dB": -15.5}
OBJECT_DB = {"VV_dB": 0.0, "VH_dB": -8.0}
FILM_DB = -10.0
"""What a biogenic film takes from the sea's backscatter."""
NODATA = -32768.0
_REACH = 30


def scene_rows(world: World, band: str, start: int) -> npt.NDArray[np.float32]:
    """Simulate rows ``start … start + BAND_ROWS − 1`` of a band, in dB.

    Args:
        world: The scene.
        band: ``VV_dB`` or ``VH_dB``.
        start: A multiple of :data:`BAND_ROWS`.

    Returns:
        ``(rows, width)`` float32; :data:`NODATA` in the collar.
    """
    stop = min(start + BAND_ROWS, world.height)
    rows, cols = np.arange(start, stop, dtype=np.float64), np.arange(world.width, dtype=np.float64)
    elevation = world.sample(world.elevation, rows, cols)
    wind = world.sample(world.wind, rows, cols)
    sea = SEA_DB[band] + 9.0 * np.log10(wind / 7.0) + FILM_DB * world.sample(world.film, rows, cols)
    power = 10 ** (np.where(elevation > 0, LAND_DB[band] + 2 * elevation, sea) / 10)
    _add_objects(world, band, start, power)
    rng = np.random.default_rng((world.seed, start, band == "VV_dB"))
    power *= rng.gamma(LOOKS, 1 / LOOKS, power.shape)
    decibel = 10 * np.log10(np.maximum(power, 1e-6))
    decibel[:, cols < collar(world)] = NODATA
    return decibel.astype(np.float32)


def collar(world: World) -> int:
    """Columns at the left without data."""
    return world.width // 50


def _add_objects(world: World, band: str, start: int, power: Floats) -> None:
    things = world.objects
    stop = start + power.shape[0]
    for i in np.flatnonzero((things.row > start - _REACH) & (things.row < stop + _REACH)):
        top, left = max(int(things.row[i]) - _REACH, start), max(int(things.column[i]) - _REACH, 0)
        bottom, right = min(int(things.row[i]) + _REACH, stop), min(int(things.column[i]) + _REACH, world.width)
        if top >= bottom or left >= right:
            continue
        y = np.arange(top, bottom)[:, None] - things.row[i]
        x = np.arange(left, right)[None, :] - things.column[i]
        length = things.length_m[i] / PIXEL_M
        along = np.abs(y * np.sin(things.heading[i]) + x * np.cos(things.heading[i])) - length / 2
        across = np.abs(y * np.cos(things.heading[i]) - x * np.sin(things.heading[i])) - length / 12
        distance = np.hypot(np.maximum(along, 0), np.maximum(across, 0))
        # A structure is a bright dot with a cross of side lobes and, its faces being plain, little cross-polarised
        # power; a vessel is an elongated body.
        level = OBJECT_DB[band] + 5 * np.log10(max(things.length_m[i], 5) / 50) - 6 * (things.kind[i] == 2)
        shape = np.exp(-(distance**2) / 1.6)
        if things.kind[i] == 0:
            level += 4.0 if band == "VV_dB" else -8.0
            shape = np.exp(-(x**2 + y**2) / 3) + 0.25 * (np.exp(-np.abs(x) / 4) * (np.abs(y) < 1.0))
            shape = shape + 0.25 * np.exp(-np.abs(y) / 4) * (np.abs(x) < 1.0)
        power[top - start : bottom - start, left:right] += 10 ** (level / 10) * shape
