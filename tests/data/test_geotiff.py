import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from xt.data.address import image_path
from xt.data.geotiff import check_bands, inspect, open_raster, read_window
from xt.errors import InputError
from xt.geometry.grid import Window

GOOD = [
    "OSBS_029.tif", "alpha_rgba_jpeg.tif", "float_nan_nodata.tif", "landsat7_6band_olinda.tif", "landsat7_RGB.byte.tif",
    "naip_4band.tif", "rgb_internal_mask.tif", "s1_grd_gcps_no_crs.tif", "s1_vv_db_nodata-99.tif",
    "sen1floods11_Spain_S1Hand.tif", "sen1floods11_Spain_S2Hand_13band.tif", "watermask_10922x6110_antimeridian.tif",
    "odd/all-nodata_71x2475x4.tif", "odd/cogeo_healthy_twin_of_corrupt.tif", "odd/gdal_byte_nogeoref.tif",
    "odd/gdal_float16.tif", "odd/gdal_sparse_tiled_contig.tif", "odd/rotated_no_crs.tif",
]  # fmt: skip


def write(path: Path, array: np.ndarray, **options: object) -> Path:
    profile = {"driver": "GTiff", "count": array.shape[0], "height": array.shape[1], "width": array.shape[2],
               "dtype": array.dtype.name} | options  # fmt: skip
    with rasterio.open(path, "w", **profile) as out:
        out.write(array)
    return path


@pytest.mark.parametrize("name", GOOD)
def test_window_and_validity_equal_rasterio_on_real_files(shared_data: Path, name: str):
    path = shared_data / "rasters" / name
    info = inspect(path)
    with open_raster(path) as dataset, rasterio.open(path) as plain:
        window = Window(info.height // 3, info.width // 4, -(-info.height // 2), -(-info.width // 2))
        window = window.clip(info.height, info.width)
        pixels, valid = read_window(dataset, window)
        want = plain.read(list(info.bands))[:, *window.slices].astype(np.float32)
        of_each = (plain.read_masks(list(info.bands))[:, *window.slices] > 0).all(0)
        mask = plain.dataset_mask()[window.slices] > 0 if info.dtype == "uint8" else of_each
    mask &= np.isfinite(want).all(0)
    assert np.array_equal(valid, mask)
    assert np.array_equal(pixels[:, mask], want[:, mask])
    assert not pixels[:, ~mask].any()


def test_facts_of_real_files(shared_data: Path):
    rasters = shared_data / "rasters"
    grd = inspect(rasters / "s1_grd_gcps_no_crs.tif")
    assert (grd.num_gcps, grd.transform) == (210, None)
    assert "210 ground control points" in grd.notes[0]
    alpha = inspect(rasters / "alpha_rgba_jpeg.tif")
    assert (alpha.bands, alpha.alpha) == ((1, 2, 3), 4)
    masked = inspect(rasters / "rgb_internal_mask.tif")
    assert masked.has_mask
    assert not any("missing pixels" in note for note in (*masked.notes, *alpha.notes))
    assert any("nothing marks missing pixels" in note for note in grd.notes)
    rotated = inspect(rasters / "odd/rotated_no_crs.tif")
    assert rotated.crs is None
    assert rotated.transform is not None


@pytest.mark.parametrize("name", ["odd/gdal_cint16.tif", "odd/gdal_minimum_tiff_tags_no_warning.tif", "landcover_palette_7168x8704.tif"])  # fmt: skip
def test_no_imagery_is_refused_but_taken_as_label(shared_data: Path, name: str):
    path = shared_data / "rasters" / name
    with pytest.raises(InputError, match=r"palette|complex|1-bit"), open_raster(path):
        pass
    assert inspect(path).height >= 1


def test_complex_is_read_as_absolute_value_when_asked(shared_data: Path):
    path = shared_data / "rasters/odd/gdal_cint16.tif"
    with open_raster(path, complex_abs=True) as dataset:
        pixels, valid = read_window(dataset, Window(0, 0, 20, 20))
    assert pixels.dtype == np.float32
    assert valid.all()
    assert (pixels >= 0).all()
    assert pixels.any()


BOMBS = ["gdal_huge4GB.tif", "gdal_tiff_dos_strip_chop.tif", "gdal_toomanyblocks.tif"]


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_little_memory(shared_data: Path, name: str):
    path = shared_data / "rasters/corrupt" / name
    with pytest.raises(InputError):
        inspect(path)
    code = (
        "import resource, sys; from xt.data.geotiff import inspect\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: inspect(sys.argv[1])\n"
        "except ValueError: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    grown = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(grown.stdout) < 200 * 1024


@pytest.mark.parametrize("name", ["gdal_byte_truncated.tif", "gdal_byte_zstd_corrupted.tif", "gdal_tiled_bad_offset.tif",
                                  "gdal_uint33.tif", "gdal_unsupported_codec_unknown.tif", "rasterio_corrupt.tif"])  # fmt: skip
def test_damaged_files_fail_by_name(shared_data: Path, name: str):
    path = shared_data / "rasters/corrupt" / name

    def read() -> None:
        with open_raster(path) as dataset:
            read_window(dataset, Window(0, 0, dataset.height, dataset.width))

    with pytest.raises(InputError, match=name):
        read()


def test_libtiff_prints_nothing_beside_the_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    path = write(tmp_path / "a.tif", np.ones((1, 30, 40), np.uint8), bigtiff="yes")
    data = bytearray(path.read_bytes())
    data[8:16] = (2**62).to_bytes(8, "little")  # where the directory lies; no file system reaches so far
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.tif: cannot be opened as GTiff"):
        inspect(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("height", "width", "options"),
    [
        (18000, 36000, {"tiled": True, "compress": "deflate", "sparse_ok": False}),
        (90000, 100000, {"tiled": True, "blockxsize": 512, "blockysize": 512, "sparse_ok": True}),
        (90000, 100000, {"tiled": True, "count": 3, "interleave": "band", "compress": "zstd", "sparse_ok": True}),
        (60000, 40000, {"blockysize": 1, "sparse_ok": True}),
    ],
    ids=["filled", "sparse", "sparse bands", "sparse rows"],
)  # fmt: skip
def test_large_real_sizes_pass(tmp_path: Path, height: int, width: int, options: dict):
    path = tmp_path / "large.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, dtype="uint8", nodata=0, **{"count": 1, **options}
    ) as out:
        out.write(np.ones((2, 512), np.uint8), 1, window=((512, 514), (512, 1024)))
    assert inspect(path).width == width
    with open_raster(path) as dataset:
        _, valid = read_window(dataset, Window(510, 510, 4, 4), (1,))
    assert np.array_equal(np.argwhere(valid), [[2, 2], [2, 3], [3, 2], [3, 3]])


def test_a_block_that_is_too_large_is_refused(tmp_path: Path):
    path = tmp_path / "a.tif"
    options = {"driver": "GTiff", "count": 1, "dtype": "float32", "tiled": True, "sparse_ok": True}
    rasterio.open(path, "w", height=16384, width=16384, blockxsize=16384, blockysize=16384, **options).close()
    with pytest.raises(InputError, match="one block of 16384 × 16384 px takes 1024 MiB, the limit is 256"):
        inspect(path)


def test_vrt_behind_tif_is_refused(tmp_path: Path):
    secret = write(tmp_path / "secret.tif", np.ones((1, 4, 4), np.uint8))
    vrt = tmp_path / "image.tif"
    vrt.write_text(
        f'<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f"<SourceFilename>{secret}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with rasterio.open(vrt) as plain:
        assert plain.driver == "VRT"
    with pytest.raises(InputError, match=r"image\.tif: cannot be opened as GTiff"):
        inspect(vrt)


def test_validity_from_nodata_option_nan_and_inf(tmp_path: Path):
    array = np.ones((2, 3, 3), np.float32)
    array[0, 0, 0], array[1, 1, 1], array[0, 2, 2] = np.nan, np.inf, -5
    path = write(tmp_path / "a.tif", array)
    with open_raster(path) as dataset:
        _, valid = read_window(dataset, Window(0, 0, 3, 3), nodata=-5)
        assert np.array_equal(np.argwhere(~valid), [[0, 0], [1, 1], [2, 2]])
        _, valid = read_window(dataset, Window(0, 0, 3, 3))
        assert valid[2, 2]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "float32"])
@pytest.mark.parametrize("tagged", [True, False])
def test_in_8_bits_a_pixel_is_missing_only_where_all_bands_that_are_read_are(tmp_path: Path, dtype: str, tagged: bool):
    array = np.array([[[7, 0, 0, 0]], [[7, 7, 0, 0]], [[7, 7, 7, 0]]], dtype)
    path = write(tmp_path / "a.tif", array, **({"nodata": 0} if tagged else {}))
    with open_raster(path) as dataset:
        pixels, valid = read_window(dataset, Window(0, 0, 1, 4), nodata=None if tagged else 0)
        _, of_two = read_window(dataset, Window(0, 0, 1, 4), (1, 2), nodata=None if tagged else 0)
    if dtype in ("uint8", "int8"):
        assert np.array_equal(pixels, array)
        assert (valid.tolist(), of_two.tolist()) == ([[True, True, True, False]], [[True, True, False, False]])
    else:
        assert (valid.tolist(), of_two.tolist()) == ([[True, False, False, False]],) * 2
        assert pixels.sum() == 21


def test_alpha_hides_in_8_bits_what_bands_know(tmp_path: Path):
    array = np.full((4, 1, 3), 9, np.uint8)
    array[3, 0, 0], array[0, 0, 1], array[:3, 0, 2] = 0, 0, 0
    path = write(tmp_path / "a.tif", array, photometric="RGB", alpha="YES")
    with open_raster(path) as dataset:
        _, valid = read_window(dataset, Window(0, 0, 1, 3), nodata=0)
    assert valid.tolist() == [[False, True, False]]


def test_a_band_that_is_called_alpha_may_be_read_and_hides_nothing_then(tmp_path: Path):
    """GDAL calls the fourth of four bands of 8 bits alpha, infrared too."""
    array = np.arange(1, 49, dtype=np.uint8).reshape(4, 3, 4)
    array[3, 0, :2], array[:, 2, 3] = 0, 0
    path = write(tmp_path / "a.tif", array)
    with open_raster(path) as dataset:
        _, hidden = read_window(dataset, Window(0, 0, 3, 4))
        pixels, valid = read_window(dataset, Window(0, 0, 3, 4), (1, 2, 3, 4))
    assert hidden.sum() == 12 - 3
    assert valid.all()
    assert np.array_equal(pixels, array)
    path = write(tmp_path / "b.tif", array)
    with rasterio.open(path, "r+") as dataset:
        dataset.write_mask(np.arange(12).reshape(3, 4) != 5)
    with open_raster(path) as dataset:
        _, valid = read_window(dataset, Window(0, 0, 3, 4), (4, 1))
    assert np.flatnonzero(~valid).tolist() == [5]
    path = write(tmp_path / "c.tif", array, nodata=7)
    with open_raster(path) as dataset:
        _, valid = read_window(dataset, Window(0, 0, 3, 4), (1, 4))
    assert valid.all()  # of 8 bits one band is enough
    path = write(tmp_path / "d.tif", array.astype(np.uint16), photometric="RGB", alpha="YES")
    for bands in ((1, 4), (4, 1)):
        with open_raster(path) as dataset:
            assert read_window(dataset, Window(0, 0, 3, 4), bands)[1].all()  # of 16 bits all have to be known
    with pytest.raises(InputError, match="3 bands beside band 4, which it calls alpha, the model takes 4; choose them"):
        check_bands(inspect(path), 4, None)
    with pytest.raises(InputError, match=r"d\.tif: 2 bands, the model takes 4"):
        check_bands(inspect(path), 4, (1, 4))


def test_wrong_bands_are_said_with_both_numbers(tmp_path: Path):
    info = inspect(write(tmp_path / "a.tif", np.ones((4, 3, 3), np.uint8), photometric="RGB", alpha="YES"))
    assert info.alpha == (4 if ColorInterp.alpha.name in info.colours else None)
    with pytest.raises(
        InputError, match=r"3 bands beside band 4.*, the model takes 2; .*--bands .*band_indexes in training"
    ):
        check_bands(info, 2, None)
    with pytest.raises(InputError, match=r"no band 7; it has 4 \(1-based\)"):
        check_bands(info, 2, (1, 7))
    assert check_bands(info, 2, (3, 1)) == (3, 1)


def test_other_formats_and_what_is_no_raster(tmp_path: Path):
    assert inspect(write(tmp_path / "a.png", np.ones((3, 4, 4), np.uint8), driver="PNG")).driver == "PNG"
    for name, told in (
        ("no.tif", r"/no\.tif: no such file$"),
        ("", ": is a folder; give a raster, such as one that lies in it"),
        ("/dev/null", "/dev/null: is no file, and cannot be read in pieces; give a raster$"),
        ("a.nc", r"; if GDAL reads it in another, make a GeoTIFF of it: gdal_translate \S+/a\.nc a\.tif"),
    ):
        (tmp_path / "a.nc").write_text("<VRTDataset/>")
        with pytest.raises(InputError, match=told), open_raster(tmp_path / name):
            pass
    for name, told in (
        ("zip://z.zip!in/a.tif", "zip://z.zip!in/a.tif: no such file; what lies in an archive is /vsizip/ARCHIVE/FILE"),
        ("ftp://h/a.tif", "ftp://h/a.tif: no such file; addresses begin with http://, https://, s3://"),
    ):
        with pytest.raises(InputError) as error, open_raster(image_path(name)):
            pass
        assert str(error.value).startswith(told)
    with pytest.raises(InputError, match="no such file"):
        inspect(tmp_path / "missing.tif")
