"""Writes synthetic scenes as xView3 stores real ones: folders, label CSVs, shoreline files."""

import csv
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import contourpy
import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.warp import transform as warp_points
from scipy import ndimage

from xt.data.labels import NO_SHORE_KM
from xt.data.shoreline import write_shoreline
from xt.data.synthetic.radar import BAND_ROWS, NODATA, SEA_DB, collar, scene_rows
from xt.data.synthetic.world import CELL, COARSE, PIXEL_M, REGION, World, make_world
from xt.errors import OutputError
from xt.files import locked, remove_partials, replacing, replacing_folder

UTM = CRS.from_epsg(32632)
ORIGIN = (300_000.0, 6_200_000.0)
SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}
PARAMETERS = "synth.json"
COARSE_BANDS = ("bathymetry", "owiMask", "owiWindSpeed", "owiWindDirection", "owiWindQuality")
COLUMNS = (
    "detect_lat", "detect_lon", "vessel_length_m", "source", "detect_scene_row", "detect_scene_column", "is_vessel",
    "is_fishing", "distance_from_shore_km", "scene_id", "confidence", "top", "left", "bottom", "right", "detect_id",
)  # fmt: skip


def split_sizes(num: int) -> dict[str, int]:
    """Scenes of each split; every split has one from three scenes on."""
    test = max(round(num * SHARES["test"]), int(num >= 3))
    validation = max(round(num * SHARES["validation"]), int(num >= 2))
    return {"train": num - validation - test, "validation": validation, "test": test}


def write_dataset(
    out: Path,
    num_scenes: int,
    size: int,
    seed: int,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    region: int = REGION,
) -> None:
    """Write ``train``, ``validation`` and ``test`` scenes; finished ones are kept, so the same command goes on.

    Args:
        out: Folder of the data.
        num_scenes: In all splits together.
        size: Rows and columns of a scene.
        seed: The same seed gives the same files.
        overwrite: Replace data made with other parameters; nothing but that may be in the folder.
        progress: Called with scenes done and scenes in all.
        region: Pixels of the regions between which context is needed; a smaller one makes a denser world.

    Raises:
        OutputError: If the folder holds other data or cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with locked(out):
            parameters = Parameters(num_scenes, size, seed, region)
            _prepare(out, parameters, overwrite)
            _write_scenes(out, parameters, progress)
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror}; finished scenes are kept") from error


@dataclass(frozen=True)
class Parameters:
    """What a data set is made from; ``synth.json`` in its folder says it.

    Attributes:
        scenes: In all splits together.
        size: Rows and columns of a scene.
        seed: Of the worlds.
        region: Pixels of a region, the unit of the distances in a world.
    """

    scenes: int
    size: int
    seed: int
    region: int = REGION

    @classmethod
    def read(cls, path: Path) -> "Parameters":
        """Read ``synth.json``.

        Raises:
            OutputError: If it is another file of that name.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{name: int(value) for name, value in values.items()})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise OutputError(f"{path} is not of xt synth ({error}); choose another folder") from error

    def scene_ids(self) -> list[tuple[str, str]]:
        """Split and name of each scene; its place in the list is its index."""
        splits = [split for split, num in split_sizes(self.scenes).items() for _ in range(num)]
        return [(split, f"s{self.seed:04d}{index:04d}{split[0]}") for index, split in enumerate(splits)]

    def files(self) -> list[Path]:
        """All files of the data set except ``synth.json``, below its folder."""
        found = [Path(f"{split}.csv") for split in SHARES]
        for split, scene_id in self.scene_ids():
            found.append(Path("shoreline", f"{scene_id}_shoreline.npy"))
            found += [Path(split, scene_id, f"{band}.tif") for band in (*SEA_DB, *COARSE_BANDS)]
        return found


def _prepare(out: Path, wanted: Parameters, overwrite: bool) -> None:
    """Make the folder, or take what a run with the same parameters left, or remove what one with others left."""
    parameters = out / PARAMETERS
    if not parameters.exists():
        if out.exists() and any(out.iterdir()):
            raise OutputError(f"{out} holds other files; choose another folder")
    else:
        found = Parameters.read(parameters)
        for path in (Path(PARAMETERS), *found.files(), *(Path(*scene) for scene in found.scene_ids())):
            remove_partials(out / path)
        if found == wanted:
            return
        if not overwrite:
            raise OutputError(f"{out} holds scenes made with other parameters; choose another folder or --overwrite")
        _remove_dataset(out, found)
    with replacing(parameters) as partial:
        partial.write_text(json.dumps(asdict(wanted)) + "\n", encoding="utf-8")


def _remove_dataset(out: Path, parameters: Parameters) -> None:
    """Remove what :func:`write_dataset` wrote; ``synth.json`` stays, so that a kill half-way can be gone on from."""
    files = {out / each for each in parameters.files()}
    own = {out / PARAMETERS, *files, *(folder for file in files for folder in file.parents)}
    found = sorted(out.rglob("*"))
    foreign = [path for path in found if path.is_symlink() or path not in own]
    if foreign:
        raise OutputError(f"{out} holds {foreign[0].relative_to(out)}, which xt synth did not write; move it elsewhere")
    for path in reversed(found):  # a folder comes after what it holds
        if path.is_dir():
            path.rmdir()
        elif path != out / PARAMETERS:
            path.unlink()


def _write_scenes(out: Path, parameters: Parameters, progress: Callable[[int, int], None]) -> None:
    rows: dict[str, list[list[Any]]] = {split: [] for split in SHARES}
    for index, (split, scene_id) in enumerate(parameters.scene_ids()):
        world = make_world(parameters.size, parameters.size, parameters.seed * 100_000 + index, parameters.region)
        if not (out / split / scene_id).exists():
            write_shoreline(out / "shoreline" / f"{scene_id}_shoreline.npy", shoreline(world))
            _write_scene(out / split / scene_id, world)
        rows[split] += label_rows(world, scene_id)
        progress(index + 1, parameters.scenes)
    for split in SHARES:
        _write_labels(out / f"{split}.csv", rows[split])


def shoreline(world: World) -> list[npt.NDArray[np.float64]]:
    """Contours ``(N, 2)`` of row and column where land meets the sea."""
    lines = contourpy.contour_generator(z=world.elevation).lines(0.0)
    contours = []
    for line in lines:
        points = np.asarray(line)[:, ::-1] * CELL
        inside = (points >= 0).all(1) & (points[:, 0] < world.height) & (points[:, 1] < world.width)
        if inside.any():
            contours.append(points[inside])
    return contours


def label_rows(world: World, scene_id: str) -> list[list[Any]]:
    """Rows of the label CSV, with the blanks and confidences that real ones have."""
    rng = np.random.default_rng((world.seed, 7))
    things = world.objects
    distance = _shore_distance_km(world)
    east, north = ORIGIN[0] + things.column * PIXEL_M, ORIGIN[1] - things.row * PIXEL_M
    lon, lat = warp_points(UTM, CRS.from_epsg(4326), east.tolist(), north.tolist())
    rows = []
    for i in np.flatnonzero((things.kind < 2) & (things.column > collar(world) + 4)):
        vessel = things.kind[i] == 1
        row, col = round(things.row[i]), round(things.column[i])
        fishing = str(bool(things.fishing[i])) if vessel and rng.random() > 0.1 else ""
        length = f"{things.length_m[i]:.2f}" if vessel and rng.random() > 0.15 else ""
        confidence = str(rng.choice(["HIGH", "MEDIUM", "LOW"], p=[0.75, 0.22, 0.03]))
        half = max(things.length_m[i] / PIXEL_M, 4) / 2
        box = [f"{v:.1f}" for v in (row - half, col - half, row + half, col + half)]
        rows.append(
            [f"{lat[i]:.6f}", f"{lon[i]:.6f}", length, "synthetic", row, col, str(bool(vessel)), fishing,
             f"{distance[i]:.4f}", scene_id, confidence, *box, f"{scene_id}_{row}_{col}"]
        )  # fmt: skip
    return rows


def _shore_distance_km(world: World) -> npt.NDArray[np.float64]:
    land = world.elevation > 0
    if not land.any():
        return np.full(len(world.objects.row), NO_SHORE_KM)
    cells = ndimage.distance_transform_edt(~land)
    return world.at(np.asarray(cells), world.objects.row, world.objects.column) * CELL * PIXEL_M / 1000


def _write_scene(folder: Path, world: World) -> None:
    profile = {
        "driver": "GTiff", "height": world.height, "width": world.width, "count": 1, "dtype": "float32", "crs": UTM,
        "transform": from_origin(*ORIGIN, PIXEL_M, PIXEL_M), "nodata": NODATA, "tiled": True, "blockxsize": 256,
        "blockysize": 256, "compress": "deflate", "predictor": 3, "zlevel": 1, "bigtiff": "if_safer",
    }  # fmt: skip
    with replacing_folder(folder) as partial:
        for band in SEA_DB:
            with rasterio.Env(GDAL_CACHEMAX=128 << 20), rasterio.open(partial / f"{band}.tif", "w", **profile) as out:
                for start in range(0, world.height, BAND_ROWS):
                    values = scene_rows(world, band, start)
                    out.write(values, 1, window=((start, start + values.shape[0]), (0, world.width)))
        for name, coarse in _coarse(world).items():
            options = profile | {
                "height": coarse.shape[0], "width": coarse.shape[1], "tiled": False,
                "transform": from_origin(*ORIGIN, PIXEL_M * COARSE, PIXEL_M * COARSE),
            }  # fmt: skip
            for key in ("blockxsize", "blockysize"):
                options.pop(key)
            with rasterio.open(partial / f"{name}.tif", "w", **options) as out:
                out.write(coarse.astype(np.float32), 1)


def _coarse(world: World) -> dict[str, npt.NDArray[np.float64]]:
    rows, cols = (
        np.arange(-(-n // COARSE), dtype=np.float64) * COARSE + COARSE / 2 for n in (world.height, world.width)
    )
    elevation, wind = world.sample(world.elevation, rows, cols), world.sample(world.wind, rows, cols)
    direction = (200 + 40 * np.sin(rows[:, None] / 3000) + 0 * cols) % 360
    return {
        "bathymetry": np.where(elevation > 0, 100 * elevation, 300 * elevation),
        "owiMask": (elevation > 0).astype(np.float64),
        "owiWindSpeed": wind,
        "owiWindDirection": direction,
        "owiWindQuality": np.zeros_like(wind),
    }


def _write_labels(path: Path, rows: list[list[Any]]) -> None:
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
