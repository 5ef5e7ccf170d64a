"""What training sees of a window is what prediction sees."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasters import COARSE, GRID, UTM, noise, write

from xt.data.raster_pairs import RasterPairsData
from xt.data.source import InputSpec, Source
from xt.data.statistics import measure
from xt.data.xview3 import XView3Data
from xt.errors import InputError
from xt.geometry.grid import Window
from xt.models.metadata import ModelMetadata

MEAN, STD = (40.0, 60.0), (7.0, 30.0)
HEIGHT, WIDTH = 60, 70


def metadata(data: Any, **more: Any) -> ModelMetadata:
    """As training saves it, and as prediction reads it."""
    saved = ModelMetadata(
        "semantic-segmentation", data.bands, data.mean, data.std, data.nodata, coarse=data.coarse, **more
    )
    return ModelMetadata.from_dict(saved.to_dict())


def holes(kind: str) -> tuple[np.ndarray, dict[str, Any], dict[str, Any], np.ndarray]:
    """Pixels of three bands, how to write them, options of the data, and what is valid of bands 3 and 1."""
    array, valid = noise(3, HEIGHT, WIDTH), np.ones((HEIGHT, WIDTH), bool)
    options: dict[str, Any] = {}
    data: dict[str, Any] = {}
    valid[10:20, 5:30] = False
    bad = {
        "nan": np.nan,
        "inf": -np.inf,
        "tag": -99,
        "model": -32768,
        "two": -99,
        "rounded tag": np.finfo(np.float32).min,
    }.get(kind)
    if bad is not None:
        array[0][~valid] = bad  # one band of several
        array[1, 40:50, 40:50] = bad  # a band that is not chosen
    if kind in ("tag", "two"):
        options["nodata"] = -99
    if kind == "rounded tag":
        options["nodata"] = -3.40282e38  # as many programs write it; GDAL takes it for the lowest float
    if kind in ("model", "two"):
        data["nodata"] = -32768.0
    if kind == "two":
        array[2, 50:, 60:] = -32768
        valid[50:, 60:] = False
    if kind == "mask":
        options["mask"] = valid
    if kind == "mask over tag":
        array[2, 50:, 60:] = -99
        options |= {"mask": valid.copy(), "nodata": -99}
        valid[50:, 60:] = False
    if kind == "alpha":
        array = np.concatenate([array, np.where(valid, 255, 0)[None].astype(np.float32)])
        options["alpha_band"] = 4
    if kind == "none":
        valid[:] = True
    return array, options, data, valid


KINDS = ["nan", "inf", "tag", "model", "two", "mask", "mask over tag", "alpha", "none", "rounded tag"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_in_training_and_in_prediction(tmp_path: Path, kind: str):
    array, options, more, valid = holes(kind)
    for name in ("a", "v"):
        write(tmp_path / f"images/{name}.tif", array, **options)
        write(tmp_path / f"masks/{name}.tif", np.eye(HEIGHT, WIDTH, dtype=np.uint8) * (name == "a"))
    data = RasterPairsData(
        str(tmp_path), ["x", "y"], ["p", "q"], "^v", band_indexes=[3, 1], image_size=32, mean=MEAN, std=STD, **more
    )
    data.setup("fit")
    seen = data.datasets["validation"][0, 0]
    source = Source(tmp_path / "images/v.tif", metadata(data).inputs, (3, 1))
    pixels, known = source.read(Window(0, 0, HEIGHT, WIDTH))
    assert np.array_equal(seen["image"], pixels)
    assert np.array_equal(seen["valid"][0], known)
    assert np.array_equal(known, valid)
    want = (array[[2, 0]] - np.reshape(MEAN, (2, 1, 1))) / np.reshape(STD, (2, 1, 1))
    np.testing.assert_allclose(pixels, np.where(valid, want, 0), rtol=1e-5, atol=1e-5)
    assert (seen["mask"] == np.where(valid, 0, 255)).all()
    for row, col in ((0, 0), (31, 17)):
        part, inside = source.read(Window(row, col, 29, 40))
        assert np.array_equal(part, pixels[:, row : row + 29, col : col + 40])
        assert np.array_equal(inside, known[row : row + 29, col : col + 40])


@pytest.mark.parametrize("value", [-7.0, 0.0])
def test_nodata_of_the_user_adds_to_that_of_the_model(tmp_path: Path, value: float):
    array = noise(2, 20, 20)
    array[0, 3, 4], array[1, 5, 6] = value, -32768
    path = write(tmp_path / "a.tif", array)
    spec = InputSpec(("p", "q"), MEAN, STD, nodata=-32768.0)
    assert np.argwhere(~Source(path, spec).read(Window(0, 0, 20, 20))[1]).tolist() == [[5, 6]]
    both = Source(path, spec, nodata=value)
    assert np.argwhere(~both.read(Window(0, 0, 20, 20))[1]).tolist() == [[3, 4], [5, 6]]
    integers = write(tmp_path / "b.tif", np.full((2, 20, 20), 9, np.uint8))
    assert Source(integers, spec, nodata=-99.5).read(Window(0, 0, 20, 20))[1].all()


def scene(folder: Path, **bands: np.ndarray) -> Path:
    """Two radar bands on one grid, a coarse one with a hole, and one that ends in the middle."""
    vv, vh = noise(HEIGHT, WIDTH, seed=1) - 60, noise(HEIGHT, WIDTH, seed=2) - 70
    vv[:, :6], vh[50:, :] = -32768, -32768
    write(folder / "VV_dB.tif", vv, crs=UTM, transform=GRID)  # untagged
    write(folder / "VH_dB.tif", vh, crs=UTM, transform=GRID, nodata=-32768)
    depth = np.linspace(-900, -100, 12 * 14, dtype=np.float32).reshape(12, 14)
    depth[3:5, 6:9] = -32768
    write(folder / "bathymetry.tif", bands.get("bathymetry", depth), crs=UTM, transform=COARSE)
    wind = np.full((12, 7), 8, np.int16)
    write(folder / "owiWindSpeed.tif", wind, crs=UTM, transform=COARSE)
    return folder


BANDS = ("VV_dB", "bathymetry", "VH_dB", "owiWindSpeed", "owiMask")


def xview3(root: Path, bands: tuple[str, ...], size: int = 40) -> XView3Data:
    scene(root / "validation" / "s")
    (root / "validation.csv").write_text(
        "detect_scene_row,detect_scene_column,scene_id,is_vessel,is_fishing,vessel_length_m,distance_from_shore_km,confidence\n"
        "20,30,s,True,True,50,3,HIGH\n"
    )
    data = XView3Data(str(root), image_size=size, bands=bands)
    data.setup("validate")
    return data


@pytest.mark.filterwarnings("ignore:.*no owiMask.tif")
@pytest.mark.parametrize("bands", [BANDS, BANDS[::2], ("bathymetry", "VH_dB"), ("VV_dB",)])
def test_a_scene_in_training_and_in_prediction(tmp_path: Path, bands: tuple[str, ...]):
    data = xview3(tmp_path, bands)
    model = metadata(data)
    assert model.inputs == data.inputs
    source = Source(tmp_path / "validation/s", model.inputs)
    dataset = data.datasets["validation"]
    assert len(dataset) == 4
    for index in range(4):
        sample = dataset[0, index]
        pixels, valid = source.read(Window(*sample["origin"], 40, 40))
        assert np.array_equal(sample["image"], pixels)
        assert np.array_equal(sample["valid"][0], valid)
    pixels, valid = source.read(Window(0, 0, HEIGHT, WIDTH))
    rows, cols = np.indices((HEIGHT, WIDTH))
    radar = ((cols >= 6) | ("VV_dB" not in bands)) & ((rows < 50) | ("VH_dB" not in bands))
    assert np.array_equal(valid, radar)
    for band, values in zip(bands, pixels, strict=True):
        assert not values[~valid].any()
        if band == "owiMask":
            assert not values.any()
        elif band == "owiWindSpeed":  # mean 0, scale 10; the raster ends at column 35
            assert (values[valid & (cols < 33)] == np.float32(0.8)).all()
            assert not values[:, 38:].any()
        elif band == "bathymetry":  # mean 0, scale 1000
            assert values.min() >= -0.9001
            assert not values[18:22, 33:42].any()
            assert (values[valid & (rows > 30)] < -0.1).all()
        else:
            assert np.abs(values[valid]).max() < 60


def test_models_that_do_not_tell_their_coarse_bands_are_predictable(tmp_path: Path):
    data = xview3(tmp_path, BANDS[:4])
    told = metadata(data)
    old = {key: value for key, value in told.to_dict().items() if key != "coarse_bands"}
    untold = ModelMetadata.from_dict(old)
    assert untold.coarse is None
    folder, window = tmp_path / "validation/s", Window(-3, 20, 50, 60)
    for a, b in zip(Source(folder, told.inputs).read(window), Source(folder, untold.inputs).read(window), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("nodata", [None, -32768.0])
def test_coarse_bands_are_smooth_and_zero_where_unknown(tmp_path: Path, nodata: float | None):
    """A slope that bilinear interpolation follows exactly, which ends in the middle of the scene."""
    slope = 3 * np.arange(7, dtype=np.float32)[None] + np.zeros((12, 1), np.float32)
    write(tmp_path / "fine.tif", noise(HEIGHT, WIDTH), crs=UTM, transform=GRID)
    write(tmp_path / "slope.tif", slope, crs=UTM, transform=COARSE)
    spec = InputSpec(("fine", "slope"), (0.0, 4.0), (1.0, 2.0), nodata, coarse=("slope",))
    pixels, valid = Source(tmp_path, spec).read(Window(0, 0, HEIGHT, WIDTH))
    assert valid.all()
    places = (np.arange(WIDTH) + 0.5) / 5 - 0.5
    want = np.broadcast_to((3 * places - 4) / 2, (HEIGHT, WIDTH))
    np.testing.assert_allclose(pixels[1][:, 3:32], want[:, 3:32], atol=1e-5)
    assert not pixels[1][:, 36:].any()


def test_windows_over_the_border_are_zero_and_invalid(tmp_path: Path):
    array = noise(2, 20, 30)
    source = Source(write(tmp_path / "a.tif", array), InputSpec(("p", "q"), MEAN, STD))
    pixels, valid = source.read(Window(-4, 25, 30, 11))
    assert pixels.shape == (2, 30, 11)
    assert np.array_equal(pixels[:, 4:24, :5], source.read(Window(0, 25, 20, 5))[0])
    assert valid.sum() == 20 * 5
    assert valid[4:24, :5].all()
    assert (pixels[:, ~valid] == 0).all()
    assert not source.read(Window(50, 50, 3, 3))[1].any()


def test_gain_multiplies_raw_values(tmp_path: Path):
    array = noise(2, 20, 30)
    array[0, 0, 0] = np.nan
    source = Source(write(tmp_path / "a.tif", array), InputSpec(("p", "q"), MEAN, STD))
    pixels, valid = source.read(Window(0, 0, 20, 30), gain=1.5)
    want = (array * 1.5 - np.reshape(MEAN, (2, 1, 1))) / np.reshape(STD, (2, 1, 1))
    np.testing.assert_allclose(pixels, np.where(valid, want, 0), rtol=1e-4, atol=1e-5)


def test_complex_samples_by_their_absolute_value(tmp_path: Path):
    array = np.full((1, 4, 5), 3 - 4j, np.complex64)
    array[0, 0, 0] = -7
    path = write(tmp_path / "a.tif", array)
    spec = InputSpec(("a",), (1.0,), (2.0,))
    with pytest.raises(InputError, match="--complex abs"):
        Source(path, spec)
    pixels, valid = Source(path, spec, nodata=-7, complex_abs=True).read(Window(0, 0, 4, 5))
    assert np.argwhere(~valid).tolist() == [[0, 0]]
    assert (pixels[0][valid] == 2).all()


def test_statistics_can_be_given_later(tmp_path: Path):
    array = noise(1, 9, 9)
    source = Source(write(tmp_path / "a.tif", array), InputSpec(("a",), (), (), nodata=float(array[0, 1, 1])))
    pixels, valid = source.with_statistics((5.0,), (2.0,)).read(Window(0, 0, 9, 9))
    assert np.array_equal(pixels[0], np.where(valid, (array[0] - np.float32(5)) / np.float32(2), 0))
    assert not valid[1, 1]
    raw, known, same = source.read_raw(Window(0, 0, 9, 9))
    assert np.array_equal(raw[0], np.where(valid, array[0], 0))
    assert np.array_equal(known[0], same)


def test_it_travels_to_other_processes_and_says_names(tmp_path: Path):
    source = Source(scene(tmp_path / "my scene"), InputSpec(("VV_dB", "VH_dB"), MEAN, STD, -32768.0))
    again = pickle.loads(pickle.dumps(source))
    window = Window(5, 5, 30, 30)
    assert np.array_equal(source.read(window)[0], again.read(window)[0])
    assert (source.name, again.height, again.width) == ("my scene", HEIGHT, WIDTH)
    assert Source(tmp_path / "my scene/VV_dB.tif", InputSpec(("a",), (0.0,), (1.0,))).name == "VV_dB"
    profile = source.profile()
    assert (profile["height"], profile["width"], profile["transform"], profile["crs"].to_epsg()) == (
        HEIGHT,
        WIDTH,
        GRID,
        32632,
    )


def test_statistics_are_of_pixels_that_a_model_sees(tmp_path: Path):
    source = Source(
        scene(tmp_path / "s"), InputSpec(("VV_dB", "bathymetry", "VH_dB"), MEAN, STD, -32768.0, ("bathymetry",))
    )
    pixels, known, valid = source.read_raw(Window(0, 0, HEIGHT, WIDTH))
    assert valid.sum() == 50 * (WIDTH - 6)
    assert 0 < (known[1] & valid).sum() < valid.sum() < known[0].sum()
    want = [pixels[band][known[band] & valid].astype(np.float64) for band in range(3)]
    mean, std = measure([source])
    np.testing.assert_allclose(mean, [each.mean() for each in want], rtol=1e-9)
    np.testing.assert_allclose(std, [each.std() for each in want], rtol=1e-7)


def test_what_does_not_fit_is_said_at_once(tmp_path: Path):
    folder = scene(tmp_path / "s")
    spec = InputSpec(("VV_dB", "bathymetry"), MEAN, STD)
    with pytest.raises(InputError, match=r"bathymetry has 12 × 14 px, VV_dB 60 × 70; they must be on one grid"):
        Source(folder, spec)
    with pytest.raises(InputError, match="--bands is for one file"):
        Source(folder, spec, bands=(1, 2))
    with pytest.raises(InputError, match=r"no_such\.tif: no such file"):
        Source(folder, InputSpec(("VV_dB", "no_such"), MEAN, STD, coarse=()))
    with pytest.raises(InputError, match="every band of the model is coarse"):
        Source(folder, InputSpec(("bathymetry",), (0.0,), (1.0,), coarse=("bathymetry",)))
    with pytest.raises(InputError, match="is no file name"):
        Source(folder, InputSpec(("VV_dB", "../../secret"), MEAN, STD))
    with pytest.raises(InputError, match="2 bands, the model takes 1"):
        Source(write(tmp_path / "two.tif", noise(2, 5, 5)), InputSpec(("a",), (0.0,), (1.0,)))
    with pytest.raises(InputError, match=r"none\.tif: no such file"):
        Source(tmp_path / "none.tif", spec)
    write(folder / "bathymetry.tif", noise(12, 14))
    with pytest.raises(InputError, match=r"bathymetry\.tif: no CRS or transform"):
        Source(folder, InputSpec(spec.bands, MEAN, STD, coarse=("bathymetry",)))
    write(folder / "VV_dB.tif", noise(HEIGHT, WIDTH))
    with pytest.raises(InputError, match=r"VV_dB\.tif: no CRS or transform, so bathymetry\.tif cannot"):
        Source(folder, InputSpec(spec.bands, MEAN, STD, coarse=("bathymetry",)))


def test_a_missing_coarse_band_is_said(tmp_path: Path):
    folder = scene(tmp_path / "s")
    with pytest.warns(UserWarning, match=r"no owiMask\.tif; that channel is 0"):
        Source(folder, InputSpec(("VV_dB", "owiMask"), MEAN, STD, coarse=("owiMask",)))


def test_changed_files_are_found(tmp_path: Path):
    source = Source(scene(tmp_path / "s"), InputSpec(("VV_dB", "bathymetry"), MEAN, STD, coarse=("bathymetry",)))
    source.check_unchanged()
    write(tmp_path / "s/bathymetry.tif", noise(13, 14), crs=UTM, transform=GRID)
    with pytest.raises(InputError, match="has changed while it was read"):
        source.check_unchanged()
    (tmp_path / "s/VV_dB.tif").unlink()
    with pytest.raises(InputError, match="has changed"):
        source.check_unchanged()
