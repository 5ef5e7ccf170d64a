"""Mosaics (VRT) and JPEG 2000, and who is taken for one."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio

from xt.data.address import OPTIONS
from xt.data.geotiff import environment, inspect, open_raster, read_window, state_of
from xt.data.source import InputSpec, Source
from xt.errors import InputError
from xt.geometry.grid import Window

TILE = 40
SOURCE = (
    '<ComplexSource><SourceFilename relativeToVRT="1">{name}</SourceFilename><SourceBand>1</SourceBand>'
    '<SrcRect xOff="0" yOff="0" xSize="40" ySize="40"/><DstRect xOff="{col}" yOff="0" xSize="40" ySize="40"/>'
    "<NODATA>-1</NODATA></ComplexSource>"
)
DERIVED = (
    '<VRTDataset rasterXSize="40" rasterYSize="40"><VRTRasterBand dataType="Float32" band="1" '
    'subClass="VRTDerivedRasterBand"><PixelFunctionLanguage>Python</PixelFunctionLanguage>'
    "<PixelFunctionType>f</PixelFunctionType><PixelFunctionCode><![CDATA[\ndef f(*args):\n    open({mark!r}, 'w')\n]]>"
    "</PixelFunctionCode><SimpleSource><SourceFilename>{name}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>"
    "</VRTRasterBand></VRTDataset>"
)
PROFILE = {"driver": "GTiff", "height": TILE, "width": TILE, "count": 1, "dtype": "float32", "nodata": -1}


def mosaic(folder: Path, values: np.ndarray) -> Path:
    """A mosaic of two tiles beside each other, with a gap of 10 columns."""
    sources = ""
    for index, name in enumerate(("left.tif", "right.tif")):
        with rasterio.open(folder / name, "w", **PROFILE) as tile:
            tile.write(values[:, :, index * 50 :][:, :, :TILE])
        sources += SOURCE.format(name=name, col=index * 50)
    path = folder / "scene.vrt"
    path.write_text(
        f'<VRTDataset rasterXSize="90" rasterYSize="{TILE}"><VRTRasterBand dataType="Float32" band="1">'
        f"<NoDataValue>-1</NoDataValue>{sources}</VRTRasterBand></VRTDataset>"
    )
    return path


@pytest.fixture
def values() -> np.ndarray:
    """``(1, 40, 90)``, with a missing pixel and the columns between the tiles missing."""
    values = np.random.default_rng(0).normal(5, 1, (1, TILE, 90)).astype(np.float32)
    values[:, 3, 7], values[:, :, TILE:50] = -1, -1
    return values


def test_mosaic_is_read_as_one_raster(tmp_path: Path, values: np.ndarray):
    source = Source(mosaic(tmp_path, values), InputSpec(("a",), (0.0,), (1.0,)))
    pixels, _, valid = source.read_raw(Window(-2, 30, TILE, 80))
    want = values[0, : TILE - 2, 30:]
    assert np.array_equal(valid[2:, :60], want != -1)
    assert not valid[:2].any()
    assert not valid[:, 60:].any()
    assert np.array_equal(pixels[0, 2:, :60], np.where(want == -1, 0, want))
    source.close()


def test_missing_tile_is_told_when_the_mosaic_is_opened(tmp_path: Path, values: np.ndarray):
    path = mosaic(tmp_path, values)
    (tmp_path / "right.tif").unlink()
    with pytest.raises(InputError, match=r"scene\.vrt: it is made of \S+/right\.tif, which cannot be found"):
        inspect(path)
    (tmp_path / "left.tif").unlink()
    with pytest.raises(InputError, match=r"\S+/left\.tif and 1 more files, which cannot be found"):
        inspect(path)


@pytest.mark.parametrize("elsewhere", ["/vsizip/{0}/a.zip/left.tif", "GTIFF_DIR:1:{0}/left.tif"])
def test_tile_of_a_mosaic_may_be_what_is_no_file(tmp_path: Path, values: np.ndarray, elsewhere: str):
    """In an archive, on the net, or a part of a file: none is asked for before it is read."""
    path = mosaic(tmp_path, values)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "left.tif", "left.tif")
    other = path.read_text().replace('1">left.tif', f'0">{elsewhere.format(tmp_path)}')
    path.write_text(other)
    with open_raster(path) as dataset:
        assert np.array_equal(read_window(dataset, Window(0, 0, TILE, 90))[1], values[0] != -1)
    assert state_of(path) == state_of(path)


def test_mosaic_has_changed_when_a_tile_has(tmp_path: Path, values: np.ndarray):
    path = mosaic(tmp_path, values)
    before, source = state_of(path), Source(path, InputSpec(("a",), (0.0,), (1.0,)))
    assert state_of(path) == before
    os.utime(tmp_path / "right.tif", ns=(1, 1))
    older = state_of(path)
    assert older != before
    with (tmp_path / "right.tif").open("ab") as tile:
        tile.write(b"more")
    os.utime(tmp_path / "right.tif", ns=(1, 1))
    assert state_of(path) not in (before, older)
    with pytest.raises(InputError, match="has changed while it was read"):
        source.check_unchanged()
    source.close()


def test_mosaic_may_be_large_though_its_file_is_small(tmp_path: Path, values: np.ndarray):
    path = mosaic(tmp_path, values)
    path.write_text(path.read_text().replace('XSize="90" rasterYSize="40"', 'XSize="900000" rasterYSize="900000"'))
    assert inspect(path).width == 900_000


def test_mosaic_has_changed_when_its_own_file_has(tmp_path: Path, values: np.ndarray):
    path = mosaic(tmp_path, values)
    before = state_of(path)
    path.write_text(path.read_text().replace('xOff="50"', 'xOff="49"'))
    os.utime(path, ns=(1, 1))
    assert state_of(path) != before
    assert state_of(path)[0] == before[0]


@pytest.mark.parametrize(
    ("name", "net"), [("a.vrt", True), ("a.VRT", True), ("/vsis3/b/a.tif", True), ("a.tif", False)]
)
def test_what_may_come_from_the_net_is_read_with_patience(name: str, net: bool):
    """Tiles of a mosaic on this machine may be elsewhere."""
    with environment(name):
        assert (rasterio.env.getenv().get("GDAL_HTTP_MAX_RETRY") == OPTIONS["GDAL_HTTP_MAX_RETRY"]) == net


def test_code_in_a_mosaic_does_not_run(tmp_path: Path, values: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GDAL_VRT_ENABLE_PYTHON", "YES")
    mosaic(tmp_path, values)
    path, mark = tmp_path / "code.vrt", tmp_path / "has_run"
    path.write_text(DERIVED.format(mark=str(mark), name=tmp_path / "left.tif"))
    with pytest.raises(InputError, match=r"code\.vrt"), open_raster(path) as dataset:
        read_window(dataset, Window(0, 0, TILE, TILE))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["scene.JP2", "scene.j2k"])
def test_jpeg_2000_is_read(tmp_path: Path, name: str):
    values = np.random.default_rng(0).integers(0, 9000, (2, 70, 90)).astype(np.uint16)
    size = {"height": 70, "width": 90, "count": 2, "dtype": "uint16"}
    path = tmp_path / name
    with rasterio.open(path, "w", driver="JP2OpenJPEG", QUALITY=100, REVERSIBLE="YES", **size) as out:
        out.write(values)
    with open_raster(path) as dataset:
        pixels, valid = read_window(dataset, Window(10, 20, 60, 70))
    assert np.array_equal(pixels, values[:, 10:, 20:])
    assert valid.all()
    path.rename(tmp_path / "scene.tif")
    with pytest.raises(InputError, match=r"scene\.tif: cannot be opened as GTiff or PNG or JPEG"):
        inspect(tmp_path / "scene.tif")
