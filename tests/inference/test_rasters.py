"""What images may be like: each row of the table of faults that no other test shows, through the whole command."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from rasterio.transform import Affine
from small_inputs import noise, raster, save

import xt
from xt.cli.main import main
from xt.errors import XTWarning
from xt.geometry.grid import Window
from xt.inference import engine, views

UTM: dict[str, Any] = {"crs": "EPSG:32632", "transform": Affine(10.0, 0, 500_000, 0, -10.0, 6_000_000)}


def predict(image: Path, model: Path, *more: str) -> npt.NDArray[Any]:
    """Run ``xt predict`` and return the first band."""
    out = image.with_name("o.tif")
    assert main(["predict", str(image), "-m", str(model), "-o", str(out), "--overwrite", *more]) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(out) as dataset:
            found: npt.NDArray[Any] = dataset.read(1)
    return found


POINTS = [GroundControlPoint(r, c, c / 900, r / 900) for r in (0, 70) for c in (0, 80)]
PLACES: dict[str, tuple[dict[str, Any], str]] = {
    "a transform and a CRS": (UTM, ""),
    "control points": ({"gcps": POINTS, "crs": "EPSG:4326"}, ""),
    "no CRS": ({"transform": UTM["transform"]}, "no CRS; coordinates are those of its grid, and the result has no CRS either"),
    "nothing": ({}, "no georeference; coordinates are pixels, and the result has no georeference either"),
}  # fmt: skip


@pytest.mark.parametrize("command", ["predict", "vectorize"])
@pytest.mark.parametrize("kind", PLACES)
def test_what_lies_nowhere_is_said_in_one_line(
    tmp_path: Path, kind: str, command: str, capsys: pytest.CaptureFixture[str]
):
    options, said = PLACES[kind]
    image, out = tmp_path / "a.tif", tmp_path / "o"
    if command == "predict":
        argv = ["-m", str(save(tmp_path / "m", "point-detection", 1)), "-o", f"{out}.tif"]
        raster(image, noise(1, 70, 80), **options)
    else:
        argv = ["-o", f"{out}.geojson"]
        raster(image, noise(1, 70, 80).astype(np.int16) // 20, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # rasterio's, pyogrio's
        warnings.simplefilter("default", XTWarning)
        assert main([command, str(image), *argv]) == 0
    assert capsys.readouterr().err == (f"xt: warning: {image}: {said}\n" if said else "")


def test_a_prediction_in_python_warns_once(tmp_path: Path):
    image, model = raster(tmp_path / "a.tif", noise(1, 70, 80)), save(tmp_path / "m", "semantic-segmentation", 1)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        with xt.predict(xt.load(model, "cpu"), image) as result:
            result.read()
    assert [each.category for each in found] == [XTWarning]


def test_rational_polynomials_are_copied(tmp_path: Path):
    first, lat, lon = ([float(i == k) for i in range(20)] for k in range(3))
    rpcs = RPC(
        height_off=30.0, height_scale=100.0, lat_off=45.0, lat_scale=0.1, long_off=10.0, long_scale=0.1, line_off=100.0, line_scale=-100.0,
        samp_off=150.0, samp_scale=100.0, line_num_coeff=lon, line_den_coeff=first, samp_num_coeff=lat, samp_den_coeff=first, err_bias=None, err_rand=None,
    )  # fmt: skip
    image = raster(tmp_path / "a.tif", noise(1, 70, 80), rpcs=rpcs)
    predict(image, save(tmp_path / "m", "semantic-segmentation", 1))
    with rasterio.open(image) as before, rasterio.open(tmp_path / "o.tif") as after:
        assert before.rpcs is not None
        assert after.rpcs == before.rpcs


ANTIMERIDIAN = {"crs": "EPSG:4326", "transform": Affine(0.00025, 0, -181.2105, 0, -0.00025, 63.36825)}


def test_a_grid_across_the_antimeridian_is_kept(tmp_path: Path):
    image = raster(tmp_path / "a.tif", noise(1, 70, 80), **ANTIMERIDIAN)
    predict(image, save(tmp_path / "m", "semantic-segmentation", 1))
    with rasterio.open(image) as before, rasterio.open(tmp_path / "o.tif") as after:
        assert (after.transform, after.crs.to_wkt()) == (before.transform, before.crs.to_wkt())


def test_a_collar_without_a_tag_is_told_by_the_option(tmp_path: Path):
    array = noise(1, 70, 80) + 200
    array[:, :9], array[:, :, 70:] = 0, 0
    image, model = raster(tmp_path / "a.tif", array, **UTM), save(tmp_path / "m", "semantic-segmentation", 1)
    assert (predict(image, model) != 255).all()
    assert np.array_equal(predict(image, model, "--nodata", "0") == 255, array[0] == 0)


@pytest.mark.parametrize("kind", ["NaN", "inf", "tag", "mask", "alpha"])
def test_what_is_missing_stays_missing(tmp_path: Path, kind: str):
    array = noise(1, 70, 80) + 200
    missing = np.random.default_rng(1).random((70, 80)) < 0.3
    options: dict[str, Any] = dict(UTM)
    if kind in ("NaN", "inf"):
        array[0, missing] = {"NaN": np.nan, "inf": -np.inf}[kind]
    if kind == "tag":
        array[0, missing] = options["nodata"] = -9
    image = tmp_path / "a.tif"
    if kind == "alpha":
        alpha = np.where(missing, 0, 255).astype(np.float32)
        raster(image, np.stack([array[0], alpha]), alpha="YES", **options)
    else:
        raster(image, array, **options)
    if kind == "mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(image, "r+") as out:
            out.write_mask(~missing)
    assert np.array_equal(predict(image, save(tmp_path / "m", "semantic-segmentation", 1)) == 255, missing)


@pytest.mark.parametrize("context", ["windows", "full"])
def test_a_model_is_not_asked_where_nothing_is_known(
    tmp_path: Path, context: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    image = raster(tmp_path / "a.tif", np.zeros((1, 200, 130), np.float32), nodata=0, **UTM)
    model = save(tmp_path / "m", "semantic-segmentation", 1, context="Mamba")
    monkeypatch.setattr(views, "encode", lambda *args: pytest.fail("it was asked"))
    assert (predict(image, model, "--context", context, "--json") == 255).all()
    summary = json.loads(capsys.readouterr().out)
    assert summary["regions"] == summary["empty_regions"] == 12


def test_blocks_and_pieces_without_data_are_neither_decoded_nor_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engine, "BLOCK", (128, 128))
    monkeypatch.setattr(engine, "PIECES", {"cpu": (64, 64)})
    decoded, written = [], []
    values, write = engine.Views.values, engine.PartWriter.write
    monkeypatch.setattr(engine.Views, "values", lambda *args: (decoded.append(args[-1]), values(*args))[1])
    monkeypatch.setattr(engine.PartWriter, "write", lambda *args: (written.append(args[1]), write(*args)))
    array = np.zeros((1, 128, 384), np.float32)
    array[:, 5, 130] = 9
    image = raster(tmp_path / "a.tif", array, nodata=0, **UTM)
    found = predict(image, save(tmp_path / "m", "semantic-segmentation", 1), "--tile", "384")
    assert np.array_equal(found != 255, array[0] == 9)
    assert len(decoded) == 1
    assert written == [Window(0, 128, 128, 128)]


def test_bands_are_chosen_in_the_order_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    array, model = noise(3, 70, 80), save(tmp_path / "m", "point-detection", 2)
    image, turned = raster(tmp_path / "a.tif", array, **UTM), raster(tmp_path / "b.tif", array[[2, 0]], **UTM)
    argv = ["predict", str(image), "-m", str(model), "-o", str(tmp_path / "p.tif")]
    assert main(argv) == 3
    assert "3 bands, the model takes 2; choose them with --bands" in capsys.readouterr().err
    assert np.array_equal(predict(image, model, "--bands", "3,1"), predict(turned, model))
    assert not np.array_equal(predict(image, model, "--bands", "1,3"), predict(turned, model))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"])  # fmt: skip
def test_numbers_are_taken_as_they_are_whatever_their_type(tmp_path: Path, dtype: str):
    """Scaled by the statistics of the model alone: the same numbers give the same classes."""
    array = np.clip(noise(1, 70, 80), 0, 120).round()
    model = save(tmp_path / "m", "semantic-segmentation", 1)
    want = predict(raster(tmp_path / "a.tif", array, **UTM), model)
    assert len(np.unique(want)) > 1
    assert np.array_equal(predict(raster(tmp_path / "b.tif", array.astype(dtype), **UTM), model), want)


@pytest.mark.parametrize(
    ("options", "bands", "reason"),
    [({"photometric": "CMYK"}, 4, "CMYK is no imagery"), ({"nbits": 1}, 1, "a 1-bit raster is a label, not imagery")],
)
def test_what_is_no_imagery_is_refused(
    tmp_path: Path, options: dict[str, Any], bands: int, reason: str, capsys: pytest.CaptureFixture[str]
):
    image = raster(tmp_path / "a.tif", np.ones((bands, 70, 80), np.uint8), **UTM, **options)
    model = save(tmp_path / "m", "semantic-segmentation", bands)
    assert main(["predict", str(image), "-m", str(model), "-o", str(tmp_path / "o.tif")]) == 3
    assert reason in capsys.readouterr().err
    assert main(["vectorize", str(image), "-o", str(tmp_path / "o.gpkg"), "--band", "1"]) == 0


@pytest.mark.parametrize("driver", ["VRT", "PNG"])
def test_another_format_behind_the_suffix_is_refused(tmp_path: Path, driver: str, capsys: pytest.CaptureFixture[str]):
    secret = raster(tmp_path / "secret.tif", np.ones((1, 70, 80), np.uint8), **UTM)
    image = tmp_path / "a.tif"
    if driver == "VRT":
        source = f"<SimpleSource><SourceFilename>{secret}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>"
        band = f'<VRTRasterBand dataType="Byte" band="1">{source}</VRTRasterBand>'
        image.write_text(f'<VRTDataset rasterXSize="80" rasterYSize="70">{band}</VRTDataset>')
    else:
        image.write_bytes(b"%PDF-1.4 no image at all")
    model = save(tmp_path / "m", "semantic-segmentation", 1)
    assert main(["predict", str(image), "-m", str(model), "-o", str(tmp_path / "o.tif")]) == 3
    error = capsys.readouterr().err
    assert error.startswith(f"xt: error: {image}: cannot be opened as GTiff")
    assert error.count("\n") == 1


def test_mosaic_is_predicted_as_the_raster_that_it_makes(tmp_path: Path):
    pixels, model = noise(2, 150, 200), save(tmp_path / "m", "semantic-segmentation", 2)
    pixels[:, 20:30, 90:120] = -1
    whole = raster(tmp_path / "whole.tif", pixels, nodata=-1, **UTM)
    raster(tmp_path / "left.tif", pixels[:, :, :100], nodata=-1, **UTM)
    raster(tmp_path / "right.tif", pixels[:, :, 100:], nodata=-1)
    size = 'xOff="{}" yOff="0" xSize="100" ySize="150"'
    bands = "".join(
        f'<VRTRasterBand dataType="Float32" band="{band}"><NoDataValue>-1</NoDataValue>'
        + "".join(
            f'<SimpleSource><SourceFilename relativeToVRT="1">{name}</SourceFilename><SourceBand>{band}</SourceBand>'
            f"<SrcRect {size.format(0)}/><DstRect {size.format(col)}/></SimpleSource>"
            for name, col in (("left.tif", 0), ("right.tif", 100))
        )
        + "</VRTRasterBand>"
        for band in (1, 2)
    )
    grid = ", ".join(str(each) for each in UTM["transform"].to_gdal())
    mosaic = tmp_path / "mosaic.vrt"
    head = f'<VRTDataset rasterXSize="200" rasterYSize="150"><SRS>{UTM["crs"]}</SRS><GeoTransform>{grid}</GeoTransform>'
    mosaic.write_text(f"{head}{bands}</VRTDataset>")
    want = predict(whole, model)
    assert np.array_equal(predict(mosaic, model), want)
    with rasterio.open(tmp_path / "o.tif") as dataset:
        assert (dataset.crs, dataset.transform) == (UTM["crs"], UTM["transform"])
