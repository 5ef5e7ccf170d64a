"""Parts become one Cloud-Optimised GeoTIFF: the same pixels on the grid of the image, with all that is known of them."""

import logging
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.transform import Affine
from rio_cogeo.cogeo import cog_validate

from xt.data.source import InputSpec, Source
from xt.errors import ConfigError, OutputError
from xt.geometry.grid import Window
from xt.inference import cog
from xt.inference.cog import Part, assemble, write_part
from xt.inference.creation import check_cog
from xt.tasks.base import Product

CLASSES = Product(("class",), "uint8", 255, "mode", ("sea", "land & <ice>"), ((0, 0, 0), (230, 159, 0)))
MAPS = Product(("center", "length"), "float32", float("nan"))
PLAIN: dict[str, Any] = {
    "crs": CRS.from_epsg(32632),
    "transform": Affine(9.0, 2.0, 500_000.5, -3.0, -8.0, 6_000_000.25),
}


def made(
    folder: Path, pixels: npt.NDArray[Any], product: Product, windows: list[Window] | None = None, **profile: Any
) -> Path:
    """Write windows (four uneven ones by default) of an image as parts, and put them together."""
    height, width = pixels.shape[1:]
    if windows is None:
        row, col = height // 3, width // 2 + 1
        cut = [(0, row), (row, height)], [(0, min(col, width)), (min(col, width), width)]
        windows = [Window(a, c, b - a, d - c) for a, b in cut[0] for c, d in cut[1] if b > a and d > c]
    parts = []
    for number, window in enumerate(windows):
        parts.append(Part(folder / f"p & {number}.tif", window))
        write_part(parts[-1].path, pixels[:, *window.slices], product)
    grid = {"height": height, "width": width, "crs": None, **profile}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assemble(parts, folder / "o.tif", grid, product, check_cog({}, product), {"XT_TASK": "a < b"})
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith("p &")) == ["o.tif"]
    return folder / "o.tif"


def noise(product: Product, height: int, width: int) -> npt.NDArray[Any]:
    rng = np.random.default_rng(1)
    if product is CLASSES:
        return rng.choice(np.array([0, 1, 255], np.uint8), (1, height, width))
    values = rng.normal(size=(2, height, width)).astype(np.float32)
    values[:, rng.random((height, width)) < 0.2] = np.nan
    return values


@pytest.mark.parametrize("product", [CLASSES, MAPS], ids=["classes", "maps"])
@pytest.mark.parametrize("size", [(1, 1), (1, 700), (513, 30), (1100, 1300)])
def test_pixels_and_grid_are_kept_and_the_file_is_valid(tmp_path: Path, product: Product, size: tuple[int, int]):
    pixels = noise(product, *size)
    out = made(tmp_path, pixels, product, **PLAIN)
    with rasterio.open(out) as dataset:
        assert np.array_equal(dataset.read(), pixels, equal_nan=product is MAPS)
        assert (dataset.crs, dataset.transform) == (PLAIN["crs"], PLAIN["transform"])
        assert dataset.descriptions == product.names
        assert np.array_equal(dataset.nodatavals, [product.nodata] * len(product.names), equal_nan=True)
        assert dataset.tags()["XT_TASK"] == "a < b"
        assert bool(dataset.overviews(1)) == (max(size) > 512)
    valid, errors, complaints = cog_validate(out, strict=True, quiet=True)
    assert valid, (errors, complaints)


def test_classes_have_names_colours_and_overviews_of_the_most_frequent(tmp_path: Path):
    pixels = np.zeros((1, 1024, 1024), np.uint8)
    pixels[:, ::2, ::2] = 1
    pixels[:, :512] = 255
    pixels[:, 600:, 600:] = 1
    with rasterio.open(made(tmp_path, pixels, CLASSES, **PLAIN)) as dataset:
        assert dataset.tags(1) == {"CLASS_0": "sea", "CLASS_1": "land & <ice>"}
        assert dataset.colormap(1)[1][:3] == (230, 159, 0)
        small = dataset.read(1, out_shape=(512, 512))
    assert set(np.unique(small[256:299, :299])) == {0}
    assert (small[:256] == 255).all()
    assert (small[301:, 301:] == 1).all()


def test_overviews_of_maps_are_means_of_what_is_known(tmp_path: Path):
    pixels = np.full((2, 1024, 1024), 4.0, np.float32)
    pixels[:, ::2] = 8
    pixels[:, :, 512:][:, ::2, ::2] = np.nan
    with rasterio.open(made(tmp_path, pixels, MAPS, **PLAIN)) as dataset:
        small = dataset.read(1, out_shape=(512, 512))
    np.testing.assert_allclose(small[:, :256], 6)
    np.testing.assert_allclose(small[:, 256:], 16 / 3, rtol=1e-5)


def test_what_no_part_covers_is_nodata(tmp_path: Path):
    pixels = noise(CLASSES, 300, 400)
    with rasterio.open(made(tmp_path, pixels, CLASSES, [Window(10, 20, 100, 200)], **PLAIN)) as dataset:
        got = dataset.read(1)
    want = np.full((300, 400), 255, np.uint8)
    want[10:110, 20:220] = pixels[0, 10:110, 20:220]
    assert np.array_equal(got, want)
    (tmp_path / "none").mkdir()
    with rasterio.open(made(tmp_path / "none", pixels, CLASSES, [], **PLAIN)) as dataset:
        assert (dataset.read() == 255).all()


WKT = (
    'PROJCS["odd",GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563]],PRIMEM["Greenwich",0],'
    'UNIT["degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],PARAMETER["latitude_of_origin",1.5],'
    'PARAMETER["central_meridian",12.25],PARAMETER["scale_factor",0.99987],PARAMETER["false_easting",3],'
    'PARAMETER["false_northing",5],UNIT["metre",1]]'
)


@pytest.mark.parametrize("kind", ["none", "gcps", "no code", "transform alone"])
def test_a_georeference_of_any_kind_is_kept(tmp_path: Path, kind: str):
    points = [GroundControlPoint(r, c, 10.0 + c / 7, 50 - r / 9, 3.25) for r in (0, 9.5) for c in (0, 8)]
    profile: dict[str, Any] = {
        "none": {}, "gcps": {"gcps": points, "crs": CRS.from_epsg(4326)},
        "no code": {"crs": CRS.from_wkt(WKT), "transform": Affine(1.0, 0, 7.0, 0, -1.0, 9.0)},
        "transform alone": {"transform": Affine(2.0, 0, 0.125, 0, -2.0, 1 / 3)},
    }[kind]  # fmt: skip
    out = made(tmp_path, noise(CLASSES, 20, 30), CLASSES, **profile)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(out) as dataset:
            assert dataset.transform == profile.get("transform", Affine.identity())
            found, crs = dataset.gcps
            if kind == "gcps":
                assert [(g.row, g.col, g.x, g.y, g.z) for g in found] == [(g.row, g.col, g.x, g.y, g.z) for g in points]
                assert crs == profile["crs"]
            else:
                assert dataset.crs == profile.get("crs")
                assert not found


def test_control_points_and_rpcs_of_real_files(shared_data: Path, tmp_path: Path):
    seen = set()
    for path in sorted((shared_data / "rasters").rglob("*.tif")):
        if "corrupt" in path.parts:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with rasterio.open(path) as dataset:
                kinds = {kind for kind, has in (("gcps", dataset.gcps[0]), ("rpcs", dataset.rpcs)) if has}
                if not kinds - seen:
                    continue
                seen |= kinds
                inputs = InputSpec(tuple(map(str, dataset.indexes)), (0.0,) * dataset.count, (1.0,) * dataset.count)
            source = Source(path, inputs)
            folder = tmp_path / path.stem
            folder.mkdir()
            out = made(
                folder, np.zeros((1, source.height, source.width), np.uint8), CLASSES, [], **{**source.profile()}
            )
            with rasterio.open(path) as a, rasterio.open(out) as b:
                assert [g.asdict() | {"id": 0} for g in a.gcps[0]] == [g.asdict() | {"id": 0} for g in b.gcps[0]]
                assert (a.gcps[1], a.rpcs) == (b.gcps[1], b.rpcs)
    assert "gcps" in seen


def test_what_cannot_be_written_is_one_line(tmp_path: Path):
    pixels = noise(CLASSES, 40, 40)
    write_part(tmp_path / "p.tif", pixels, CLASSES)
    (tmp_path / "p.tif").write_bytes((tmp_path / "p.tif").read_bytes()[:300])
    grid = {"height": 40, "width": 40, "crs": None}
    part = Part(tmp_path / "p.tif", Window(0, 0, 40, 40))
    with pytest.raises(
        OutputError, match=r"^/final/o.tif cannot be written: .*; free space or check rights$"
    ) as caught:
        assemble([part], tmp_path / "o.tif", grid, CLASSES, check_cog({}, CLASSES), {}, Path("/final/o.tif"))
    assert "\n" not in str(caught.value)
    with pytest.raises(OutputError):
        write_part(Path("/proc/none/p.tif"), pixels, CLASSES)
    assert not list(tmp_path.glob("*.vrt"))


def test_a_file_that_was_cut_short_without_a_word_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain = rasterio.open

    @contextmanager
    def opened(path: Path, mode: str = "r", **settings: Any) -> Iterator[Any]:
        with plain(path, mode, **settings) as dataset:
            yield dataset
        if mode == "w":
            os.truncate(path, path.stat().st_size // 2)

    monkeypatch.setattr(cog.rasterio, "open", opened)
    with pytest.raises(OutputError, match=r"p\.tif cannot be written: "):
        write_part(tmp_path / "p.tif", noise(MAPS, 300, 300), MAPS)
    assert not list(tmp_path.iterdir())


def test_what_gdal_complains_of_in_another_thread_is_not_of_this_file(tmp_path: Path):
    complain = partial(logging.getLogger("rasterio._env").error, "CPLE_FileIO in another file")
    with cog._explained(tmp_path / "o.tif", tmp_path / "o.tif"), ThreadPoolExecutor(1) as other:
        other.submit(complain).result()
    with pytest.raises(OutputError, match="CPLE_FileIO"), cog._explained(tmp_path / "o.tif", tmp_path / "o.tif"):
        complain()


@pytest.mark.parametrize(("side", "start"), [(8000, b"II*\0"), (23500, b"II+\0")])
def test_what_may_pass_4_gigabytes_is_a_bigtiff(tmp_path: Path, side: int, start: bytes):
    """A result whose samples take more than 2 GB; holes make it small enough for a test."""
    maps, grid = Product(("a",), "float32", float("nan")), {"height": side, "width": side, "crs": None}
    settings = check_cog({"SPARSE_OK": "TRUE", "COMPRESS": "ZSTD", "OVERVIEWS": "NONE"}, maps)
    assemble([], tmp_path / "o.tif", grid, maps, settings, {})
    with (tmp_path / "o.tif").open("rb") as file:
        assert file.read(4) == start


def test_an_odd_type_of_a_plug_in_is_found_before_the_work():
    with pytest.raises(ConfigError, match="complex64"):
        check_cog({}, Product(("a",), "complex64", 0))


def test_gdal_holds_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings: list[dict[str, Any]] = []
    plain = rasterio.Env

    def env(**options: Any) -> Any:
        settings.append(options)
        return plain(**options)

    monkeypatch.setattr(cog.rasterio, "Env", env)
    made(tmp_path, noise(CLASSES, 20, 20), CLASSES)
    assert all(each["GDAL_CACHEMAX"] <= 64 << 20 for each in settings if each)
