"""A part of an image: inside polygons, where a mask says so, or inside a window."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import rasterio.warp
import shapely
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine

from xt.data.georeference import to_map
from xt.data.limits import LimitedSource
from xt.data.source import InputSpec, Source
from xt.errors import InputError
from xt.geometry.grid import Window

INPUTS = InputSpec(("a", "b"), (1.0, 2.0), (3.0, 4.0))
UTM = {"crs": "EPSG:32632", "transform": Affine(9.0, 2.0, 500_000.0, -3.0, -8.0, 6_000_000.0)}


def image(path: Path, **options: Any) -> Path:
    pixels = np.random.default_rng(0).normal(size=(2, 60, 80)).astype(np.float32)
    pixels[:, 3, 4] = -9
    with rasterio.open(
        path, "w", driver="GTiff", count=2, height=60, width=80, dtype="float32", nodata=-9, **options
    ) as out:
        out.write(pixels)
    return path


def polygons(path: Path, *shapes: Any) -> Path:
    """Polygons in longitude and latitude."""
    features = [
        {"type": "Feature", "properties": {}, "geometry": json.loads(shapely.to_geojson(each))} for each in shapes
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def on_earth(source: Source, corners: list[tuple[float, float]]) -> Any:
    """A polygon whose corners are given in rows and columns."""
    rows, cols = (np.array(each, float) for each in zip(*corners, strict=True))
    x, y = to_map(rows, cols, source.profile())
    return shapely.Polygon(list(zip(*rasterio.warp.transform(source.profile()["crs"], "EPSG:4326", x, y), strict=True)))


def inside(source: Source, shape: Any) -> npt.NDArray[np.bool_]:
    """Which pixels' centres lie in a polygon of longitude and latitude, asked one by one."""
    rows, cols = (each.ravel().astype(float) for each in np.mgrid[: source.height, : source.width])
    x, y = to_map(rows, cols, source.profile())
    lon, lat = rasterio.warp.transform(source.profile()["crs"], "EPSG:4326", x, y)
    return shapely.contains_xy(shape, lon, lat).reshape(source.height, source.width)


def whole(source: Source) -> tuple[Any, Any]:
    return source.read(Window(0, 0, source.height, source.width))


@pytest.mark.parametrize("kind", ["affine", "gcps"])
def test_pixels_whose_centre_lies_in_a_polygon_count(tmp_path: Path, kind: str):
    options: dict[str, Any] = dict(UTM)
    if kind == "gcps":
        affine = options.pop("transform")
        options["gcps"] = [GroundControlPoint(r, c, *(affine * (c, r))) for r in (0, 60) for c in (0, 80)]
    source = Source(image(tmp_path / "a.tif", **options), INPUTS)
    hole = on_earth(source, [(5.3, 5.2), (4.9, 60.3), (50.2, 70.1), (30.1, 12.3)]).difference(
        on_earth(source, [(15.2, 25.1), (14.8, 35.3), (25.2, 30.4)])
    )
    other = on_earth(source, [(52.2, 60.3), (58.1, 79.9), (55, 78)])
    limited = LimitedSource(source, polygons(tmp_path / "p.geojson", hole, other))
    pixels, valid = whole(limited)
    plain, known = whole(source)
    want = (inside(source, hole) | inside(source, other)) & known
    assert (valid != want).sum() <= 2  # centres on an edge
    assert 500 < want.sum() < 2000
    assert np.array_equal(pixels, np.where(valid, plain, 0))
    part = Window(20, -7, 30, 40)
    got = limited.read(part)
    assert np.array_equal(got[1][:, 7:], valid[20:50, :33])
    assert not got[1][:, :7].any()


def test_a_mask_says_what_counts(tmp_path: Path):
    source = Source(image(tmp_path / "a.tif"), INPUTS)
    mask = np.random.default_rng(1).integers(0, 3, (1, 60, 80)).astype(np.uint8)
    with rasterio.open(
        tmp_path / "m.tif", "w", driver="GTiff", count=1, height=60, width=80, dtype="uint8", nodata=2
    ) as out:
        out.write(mask)
    _, valid = whole(LimitedSource(source, mask=tmp_path / "m.tif"))
    assert np.array_equal(valid, (mask[0] == 1) & whole(source)[1])


@pytest.mark.parametrize("kind", ["affine", "gcps", "none"])
def test_a_window_has_its_own_grid(tmp_path: Path, kind: str):
    options: dict[str, Any] = {} if kind == "none" else dict(UTM)
    if kind == "gcps":
        affine = options.pop("transform")
        options["gcps"] = [GroundControlPoint(r, c, *(affine * (c, r)), z=2.0) for r in (0, 60) for c in (0, 80)]
    source = Source(image(tmp_path / "a.tif", **options), INPUTS)
    crop = Window(2, 3, 20, 31)
    limited = LimitedSource(source, crop=crop)
    assert (limited.height, limited.width) == (20, 31)
    for got, want in zip(whole(limited), whole(source), strict=True):
        assert np.array_equal(got, want[..., *crop.slices])
    beyond, valid = limited.read(Window(10, 20, 20, 20))
    assert valid[:10, :11].any()
    assert not valid[10:].any()
    assert not valid[:, 11:].any()
    assert not beyond[:, 10:].any()
    profile = limited.profile()
    assert (profile["height"], profile["width"]) == (20, 31)
    place = to_map(np.array([4.0]), np.array([7.0]), profile)
    want = (
        to_map(np.array([6.0]), np.array([10.0]), source.profile())
        if kind != "none"
        else (np.array([7.5]), np.array([4.5]))
    )
    np.testing.assert_allclose(place, want, rtol=0, atol=1e-6)


def test_rational_polynomials_move_with_the_window(tmp_path: Path):
    rpcs = rasterio.rpc.RPC(
        height_off=10, height_scale=100, lat_off=50, lat_scale=0.01, long_off=8, long_scale=0.01, line_off=30, line_scale=30,
        samp_off=40, samp_scale=40, line_num_coeff=[0, 0, -1.0] + [0] * 17, line_den_coeff=[1.0] + [0] * 19,
        samp_num_coeff=[0, 1.0] + [0] * 18, samp_den_coeff=[1.0] + [0] * 19, err_bias=None, err_rand=None,
    )  # fmt: skip
    source = Source(image(tmp_path / "a.tif", rpcs=rpcs), INPUTS)
    limited = LimitedSource(source, crop=Window(5, 9, 20, 20))
    got, want = (
        to_map(np.array([1.0]), np.array([2.0]), limited.profile()),
        to_map(np.array([6.0]), np.array([11.0]), source.profile()),
    )
    np.testing.assert_allclose(got, want, atol=1e-9)


def test_what_does_not_fit_is_said(tmp_path: Path):
    source, bare = (Source(image(tmp_path / f"{name}.tif", **more), INPUTS) for name, more in (("a", UTM), ("b", {})))
    shape = on_earth(source, [(5, 5), (5, 60), (50, 70)])
    area = polygons(tmp_path / "p.geojson", shape)
    with pytest.raises(InputError, match=r"no CRS or georeference, so the polygons of .*p\.geojson cannot be placed"):
        LimitedSource(bare, area)
    with pytest.raises(InputError, match="holds no polygon"):
        LimitedSource(source, polygons(tmp_path / "q.geojson", shapely.Point(1, 2)))
    with pytest.raises(InputError, match=r"none\.geojson: no polygons can be read"):
        LimitedSource(source, tmp_path / "none.geojson")
    (tmp_path / "bad.geojson").write_text("{")
    with pytest.raises(InputError, match=r"bad\.geojson: no polygons can be read"):
        LimitedSource(source, tmp_path / "bad.geojson")
    with rasterio.open(tmp_path / "m.tif", "w", driver="GTiff", count=1, height=61, width=80, dtype="uint8") as out:
        out.write(np.ones((1, 61, 80), np.uint8))
    with pytest.raises(InputError, match=r"m\.tif: 61 × 80 px, .*a\.tif has 60 × 80; they must be on one grid"):
        LimitedSource(source, mask=tmp_path / "m.tif")
    moved = UTM["transform"] * rasterio.Affine.translation(0, 3)
    mask = image(tmp_path / "n.tif", **UTM | {"transform": moved})
    with pytest.raises(InputError, match=r"n\.tif: up to 3 pixels away from .*a\.tif; warp it to that grid"):
        LimitedSource(source, mask=mask)
    for window in (Window(0, 0, 61, 80), Window(-1, 0, 5, 5), Window(0, 0, 0, 5)):
        with pytest.raises(InputError, match="is not inside the image of 60 × 80 px"):
            LimitedSource(source, crop=window)


@pytest.mark.parametrize("name", ["a.tif", "m.tif", "p.geojson"])
def test_a_changed_image_mask_or_polygon_is_noticed(tmp_path: Path, name: str):
    source = Source(image(tmp_path / "a.tif", **UTM), INPUTS)
    area = polygons(tmp_path / "p.geojson", on_earth(source, [(5, 5), (5, 60), (50, 70)]))
    with rasterio.open(tmp_path / "m.tif", "w", driver="GTiff", count=1, height=60, width=80, dtype="uint8") as out:
        out.write(np.ones((1, 60, 80), np.uint8))
    limited = LimitedSource(source, area, tmp_path / "m.tif")
    limited.check_unchanged()
    before = dict(limited.fingerprint)
    assert [path.name for path in before] == ["a.tif", "m.tif", "p.geojson"]
    with (tmp_path / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(InputError, match="has changed"):
        limited.check_unchanged()
    after = dict(LimitedSource(Source(tmp_path / "a.tif", INPUTS), area, tmp_path / "m.tif").fingerprint)
    assert [path.name for path in before if before[path] != after[path]] == [name]
