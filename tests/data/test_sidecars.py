"""Files beside a raster: those that give its place count, those that lead elsewhere are refused."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasters
from rasterio.transform import Affine

from xt.data.geotiff import inspect, open_raster
from xt.data.source import InputSpec, Source
from xt.errors import InputError
from xt.geometry.grid import Window

ONE = InputSpec(("a",), (0.0,), (1.0,))


def write(path: Path, array: np.ndarray | None = None, **options: object) -> Path:
    ramp = np.arange(2000, dtype=np.float32).reshape(1, 40, 50)
    return rasters.write(path, ramp if array is None else array, **options)


@pytest.mark.parametrize("suffix", [".tfw", ".TFW", ".tifw", ".TIFW", ".wld", ".WLD"])
def test_world_files_count(tmp_path: Path, suffix: str):
    path = write(tmp_path / "a.b.tif")
    assert inspect(path).transform is None
    (tmp_path / f"a.b{suffix}").write_text("10\n1\n2\n-10\n500005\n5999995\n")
    want = Affine(10, 2, 499999.0, 1, -10, 5999999.5)
    assert inspect(path).transform == pytest.approx(want[:6])
    assert Source(path, ONE).profile()["transform"].almost_equals(want)


@pytest.mark.parametrize(
    ("image", "world"), [("a.png", "a.pgw"), ("a.png", "a.wld"), ("a.jpg", "a.jgw"), ("a.tiff", "a.tfw")]
)
def test_world_files_of_other_suffixes_count(tmp_path: Path, image: str, world: str):
    driver = {".png": "PNG", ".jpg": "JPEG", ".tiff": "GTiff"}[Path(image).suffix]
    path = write(tmp_path / image, np.ones((1, 40, 50), np.uint8), driver=driver)
    (tmp_path / world).write_text("10\n0\n0\n-10\n500005\n5999995\n")
    assert Source(path, ONE).profile()["transform"] == Affine(10, 0, 500000, 0, -10, 6000000)


def test_mapinfo_tables_count(tmp_path: Path):
    path = write(tmp_path / "a.tif")
    corners = [(500000, 6000000, 0, 0), (500500, 6000000, 50, 0), (500500, 5999600, 50, 40), (500000, 5999600, 0, 40)]
    labels = ",\n".join(f'  ({x},{y}) ({c},{r}) Label "Pt"' for x, y, c, r in corners)
    (tmp_path / "a.tab").write_text(
        f'!table\n!version 300\n!charset WindowsLatin1\n\nDefinition Table\n  File "a.tif"\n  Type "RASTER"\n{labels}\n'
        '  CoordSys Earth Projection 8, 104, "m", 9, 0, 0.9996, 500000, 0\n  Units "m"\n'
    )
    profile = Source(path, ONE).profile()
    assert profile["transform"].almost_equals(Affine(10, 0, 500000, 0, -10, 6000000))
    assert "Transverse_Mercator" in profile["crs"].to_wkt()


NUMBERS = {"LINE": 20, "SAMP": 25, "LAT": 45, "LONG": 10, "HEIGHT": 7}


def rpc_text() -> str:
    text = "".join(f"{name}_OFF: {value}\n{name}_SCALE: 1\n" for name, value in NUMBERS.items())
    for index, name in enumerate(("LINE_NUM", "LINE_DEN", "SAMP_NUM", "SAMP_DEN")):
        one = {0: 2, 1: 0, 2: 1, 3: 0}[index]
        text += "".join(f"{name}_COEFF_{i + 1}: {float(i == one)}\n" for i in range(20))
    return text


def rpb_text() -> str:
    names = {"LINE": "line", "SAMP": "samp", "LAT": "lat", "LONG": "long", "HEIGHT": "height"}
    rows = "".join(f"\t{names[name]}Offset = {value};\n\t{names[name]}Scale = 1;\n" for name, value in NUMBERS.items())
    for name, one in (("lineNumCoef", 2), ("lineDenCoef", 0), ("sampNumCoef", 1), ("sampDenCoef", 0)):
        rows += f"\t{name} = (\n" + ",\n".join(f"\t\t\t{float(i == one):E}" for i in range(20)) + ");\n"
    return f'satId = "QB02";\nbandId = "P";\nSpecId = "RPC00B";\nBEGIN_GROUP = IMAGE\n\terrBias = 1.0;\n\terrRand = 0.1;\n{rows}END_GROUP = IMAGE\nEND;\n'


@pytest.mark.parametrize("name", ["a_RPC.TXT", "a_rpc.txt", "a_RPC.txt", "a.RPB", "a.rpb"])
def test_rational_polynomials_count(tmp_path: Path, name: str):
    path = write(tmp_path / "a.tif")
    assert not inspect(path).has_rpcs
    (tmp_path / name).write_text(rpb_text() if name.lower().endswith("rpb") else rpc_text())
    rpcs = Source(path, ONE).profile()["rpcs"]
    assert (rpcs.line_off, rpcs.samp_off, rpcs.lat_off, rpcs.long_off, rpcs.height_off) == (20, 25, 45, 10, 7)


def test_masks_overviews_and_metadata_keep_working(tmp_path: Path):
    path = write(tmp_path / "a.tif", np.ones((1, 40, 50), np.uint8))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as out:
        mask = np.full((40, 50), 255, np.uint8)
        mask[:7] = 0
        out.write_mask(mask)
    assert (tmp_path / "a.tif.msk").is_file()
    _, valid = Source(path, ONE).read(Window(0, 0, 40, 50))
    assert not valid[:7].any()
    assert valid[7:].all()
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(path, "r+") as out:
        out.build_overviews([2])
    assert (tmp_path / "a.tif.ovr").is_file()
    with open_raster(path) as dataset:
        assert dataset.overviews(1) == [2]
    (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset><GeoTransform>5,1,0,6,0,-1</GeoTransform></PAMDataset>")
    assert inspect(path).transform == (1, 0, 5, 0, -1, 6)


def vrt(secret: Path) -> str:
    return (
        '<VRTDataset rasterXSize="25" rasterYSize="20"><Metadata><MDI key="INTERNAL_MASK_FLAGS_1">2</MDI></Metadata><VRTRasterBand dataType="Byte" '
        f'band="1"><SimpleSource><SourceFilename>{secret}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>'
    )


@pytest.mark.parametrize("suffix", [".msk", ".MSK", ".ovr", ".OVR", ".msk.ovr", ".ovr.msk", ".ovr.ovr"])
@pytest.mark.parametrize("world", [True, False])
def test_rasters_beside_must_be_tiff(tmp_path: Path, suffix: str, world: bool):
    path, secret = write(tmp_path / "a.tif"), write(tmp_path / "secret.tif", np.full((1, 20, 25), 77, np.uint8))
    if world:
        (tmp_path / "a.tfw").write_text("10\n0\n0\n-10\n500005\n5999995\n")
    (tmp_path / f"a.tif{suffix}").write_text(vrt(secret))
    with pytest.raises(InputError, match=r"a\.tif\.\S+: no TIFF, so not taken beside a\.tif; remove it"):
        Source(path, ONE)


def test_metadata_that_name_another_file_are_refused(tmp_path: Path):
    path, secret = write(tmp_path / "a.tif"), write(tmp_path / "secret.tif", np.full((1, 20, 25), 77, np.uint8))
    (tmp_path / "other.vrt").write_text(vrt(secret))
    (tmp_path / "a.tif.aux.xml").write_text(
        f'<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{tmp_path}/other.vrt</MDI></Metadata></PAMDataset>'
    )
    with rasterio.open(path) as plain:
        assert plain.read(1, out_shape=(20, 25)).max() == 77  # what GDAL does by itself
    with pytest.raises(InputError, match="name another file for overviews"):
        Source(path, ONE)


def test_files_beside_that_nobody_knows_are_not_looked_at(tmp_path: Path):
    path = write(tmp_path / "a.tif")
    for name in ("a.aux", "a.tif.xml", "a_metadata.txt", "a.vrt", "b.tfw", "a.tif.tfw"):
        (tmp_path / name).write_text("10\n0\n0\n-10\n500005\n5999995\n")
    with open_raster(path) as dataset:
        assert dataset.files == [str(path)]
