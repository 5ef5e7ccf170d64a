"""Images that are not what a model was trained on are told of, and no others."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from small_inputs import noise, raster, save

from xt.cli.main import main
from xt.data.source import InputSpec, Source
from xt.errors import XTWarning
from xt.geometry.grid import Window
from xt.inference.fit import REGIONS, watch_of

RNG = np.random.default_rng(0)
SHAPE = 2, 64, 64
POWER = RNG.gamma(4, 0.025, SHAPE)
"""Of radar, linear, of land: four looks."""
DECIBELS = 10 * np.log10(POWER)
WATER = RNG.gamma(4, 0.0005, SHAPE)
OF_RADAR, OF_NUMBERS, OF_BYTES = (-12.0, 5.0), (1500.0, 1000.0), (100.0, 50.0)


def told(path: Path, values: np.ndarray, mean: float, std: float, times: int = REGIONS) -> list[str]:
    """What is said of an image of which each region looks like this."""
    source = Source(raster(path, values.astype(np.float32)), InputSpec(("vv", "vh"), (mean, mean), (std, std)))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(times):
            watch_of(source).see(*source.read(Window(0, 0, 64, 64)))
        if times < REGIONS:
            watch_of(source).tell()
    return [str(each.message) for each in found if issubclass(each.category, XTWarning)]


@pytest.mark.parametrize("times", [1, REGIONS, 2 * REGIONS])
@pytest.mark.parametrize(
    ("values", "trained"),
    [
        (POWER, OF_RADAR), (WATER, OF_RADAR), ((DECIBELS + 50) * 100, OF_RADAR), (DECIBELS, (0.1, 0.1)),
        (RNG.uniform(0, 0.4, SHAPE), OF_NUMBERS), (RNG.uniform(0, 0.03, SHAPE), OF_NUMBERS),
        (RNG.uniform(0, 1, SHAPE), OF_BYTES), (RNG.normal(2000, 500, SHAPE), OF_BYTES),
    ],
)  # fmt: skip
def test_another_scale_is_told_once_with_numbers(
    tmp_path: Path, values: np.ndarray, trained: tuple[float, float], times: int
):
    (text,) = told(tmp_path / "a.tif", values, *trained, times)
    assert (
        f"a.tif: band vv (and so 1 more): values around {float(f'{np.median(values[0]):.3g}'):g}, the model was trained on"
        in text
    )
    assert f"{trained[0]:g} ± {trained[1]:g}; check unit and scale" in text


@pytest.mark.parametrize(
    ("values", "trained"),
    [
        (DECIBELS, OF_RADAR), (10 * np.log10(WATER), OF_RADAR), (DECIBELS + 15, OF_RADAR),
        (RNG.normal(60, 8, SHAPE).round(), OF_NUMBERS), (RNG.normal(10000, 30, SHAPE), OF_NUMBERS),  # water, clouds
        (RNG.normal(11000, 800, SHAPE), (1350.0, 260.0)),
        (RNG.integers(250, 256, SHAPE), OF_BYTES), (np.zeros(SHAPE), OF_BYTES),
        (np.full(SHAPE, 255), OF_BYTES), (RNG.normal(3000, 900, SHAPE), (0, 1)), (np.full(SHAPE, 0.0), OF_RADAR),
        (RNG.normal(0.5, 0.2, SHAPE), (0.5, 0.2)), (RNG.normal(-11, 0.1, SHAPE), OF_RADAR),  # the latter: oil
    ],
)  # fmt: skip
def test_bright_dark_and_uniform_scenes_are_not(tmp_path: Path, values: np.ndarray, trained: tuple[float, float]):
    assert told(tmp_path / "a.tif", values, *trained) == []


def test_a_band_that_may_be_small_is_not_told_alone(tmp_path: Path):
    heights = np.stack([RNG.normal(2, 0.5, SHAPE[1:]), RNG.normal(0, 900, SHAPE[1:])])
    assert told(tmp_path / "a.tif", heights, *OF_NUMBERS) == []


@pytest.mark.parametrize("coarse", [True, False])
def test_what_may_be_missing_is_not_looked_at(tmp_path: Path, coarse: bool):
    grid = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 6e6)}
    for band, values in (("vv", DECIBELS[0]), ("wind", 1e6 + DECIBELS[1])):
        (tmp_path / "scene").mkdir(exist_ok=True)
        raster(tmp_path / f"scene/{band}.tif", values[None].astype(np.float32), **grid)
    spec = InputSpec(("vv", "wind"), (-12.0, 5.0), (5.0, 3.0), coarse=("wind",) if coarse else ())
    source = Source(tmp_path / "scene", spec)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        watch_of(source).see(*source.read(Window(0, 0, 64, 64)))
        watch_of(source).tell()
    assert ["band wind" in str(each.message) for each in found] == ([] if coarse else [True])


@pytest.fixture
def two_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "m", "semantic-segmentation", 2)
    raster(tmp_path / "a.tif", noise(2, 70, 70))
    return tmp_path


def named(*names: str) -> None:
    with rasterio.open("a.tif", "r+") as dataset:
        dataset.descriptions = names


COMMANDS = (
    ["predict", "a.tif", "-m", "m", "-o", "o.tif", "--overwrite"],
    ["predict", "a.tif", "-m", "m", "-o", "o.tif", "--dry-run"],
    ["predict", "a.tif", "-m", "m", "-o", "s.tif", "--shard", "2/2"],
    ["features", "a.tif", "-m", "m", "-o", "tokens", "--overwrite"],
)


def test_bands_that_the_file_has_in_another_order(two_bands: Path, capsys: pytest.CaptureFixture[str]):
    named("B1", "b0")
    told = "xt: warning: a.tif: bands B1, b0 are read as b0, b1; by their names they are --bands 2,1\n"
    for argv in COMMANDS:
        assert main(argv) == 0
        assert capsys.readouterr().err.count(told) == 1
    assert main([*COMMANDS[0], "--bands", "2,1"]) == 0
    assert "--bands" not in capsys.readouterr().err
    for names in (("b0", "B1"), ("b1", "other"), ("b0", "b0"), ("", "b0")):
        named(*names)
        assert main(COMMANDS[0]) == 0
        assert "--bands" not in capsys.readouterr().err


def test_values_of_another_scale_by_every_command(two_bands: Path, capsys: pytest.CaptureFixture[str]):
    full = [*COMMANDS[0], "--tta", "flips"]
    for scale, count in ((1, 0), (1e4, 1)):
        raster(two_bands / "a.tif", scale * noise(2, 70, 70))
        for argv in (COMMANDS[0], full, [*COMMANDS[2], "--restart", "--overwrite"], COMMANDS[3]):
            assert main(argv) == 0
            assert capsys.readouterr().err.count("a.tif: band b0 (and so 1 more): values around") == count


SQUARE = """{"type": "FeatureCollection", "crs": {"type": "name", "properties": {"name": "EPSG:32618"}}, "features":
[{"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates":
[[[%(x)d, 10], [%(x)d, 90], [%(y)d, 90], [%(y)d, 10], [%(x)d, 10]]]}}]}"""


def test_polygons_that_touch_no_pixel_are_told(two_bands: Path, capsys: pytest.CaptureFixture[str]):
    place = {"crs": "EPSG:32618", "transform": rasterio.Affine(1, 0, 0, 0, -1, 100)}
    for name in "ab":
        raster(two_bands / f"{name}.tif", noise(2, 70, 70), **place)
    (two_bands / "far.geojson").write_text(SQUARE % {"x": 500, "y": 600})
    (two_bands / "near.geojson").write_text(SQUARE % {"x": 60, "y": 90})
    argv = ["predict", "a.tif", "b.tif", "-m", "m", "-o", "out", "--overwrite", "--aoi"]
    assert main([*argv, "near.geojson"]) == 0
    assert "no polygon touches" not in capsys.readouterr().err
    assert main([*argv, "far.geojson"]) == 0
    error = capsys.readouterr().err
    for name in "ab":
        told = (
            f"xt: warning: far.geojson: no polygon touches {name}.tif; all of its result is nodata; if it should not be"
        )
        assert error.count(told) == 1
    assert main([*argv, "near.geojson", "--window", "0,0,50,50"]) == 0
    assert "no polygon touches a.tif inside the window" in capsys.readouterr().err


def test_what_limits_all_images_is_missed_once(two_bands: Path, capsys: pytest.CaptureFixture[str]):
    raster(two_bands / "b.tif", noise(2, 70, 70))
    (two_bands / "empty.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    for option, name, code, told in (
        ("--aoi", "none.geojson", 2, "--aoi none.geojson: no such file; check its name"),
        ("--mask", "none.tif", 2, "--mask none.tif: no such file; check its name"),
        ("--aoi", "a.tif", 3, "a.tif: no polygons can be read"),
        ("--aoi", "empty.geojson", 3, "empty.geojson: holds no polygon"),
    ):
        assert main(["predict", "a.tif", "b.tif", "-m", "m", "-o", "out", option, name]) == code
        assert capsys.readouterr().err.startswith(f"xt: error: {told}")
        assert not (two_bands / "out").exists()
