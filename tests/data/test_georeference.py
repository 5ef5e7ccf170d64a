from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from rasterio.transform import Affine

from xt.data.georeference import check_same_grid, map_crs, to_map, to_pixels
from xt.data.source import InputSpec, Source
from xt.errors import InputError

AFFINE = Affine(9.0, 2.0, 500_000.0, -3.0, -8.0, 6_000_000.0)


def bent(row: float, col: float) -> tuple[float, float]:
    """No polynomial of low order: what a geocoding over terrain looks like."""
    return 500_000 + 10 * col + 60 * np.sin(row / 40), 6_000_000 - 10 * row + 60 * np.sin(col / 35)


def bent_points(step: int = 20) -> list[GroundControlPoint]:
    return [GroundControlPoint(r, c, *bent(r, c)) for r in range(0, 201, step) for c in range(0, 301, step)]


def polynomials() -> RPC:
    """Rows go south and columns east, linearly: 0.001 degrees a pixel around 45 N 10 E."""
    first, lat, lon = ([float(i == k) for i in range(20)] for k in range(3))
    lat[3] = 0.2  # a height that is not the central one moves columns
    return RPC(
        height_off=30.0, height_scale=100.0, lat_off=45.0, lat_scale=0.1, long_off=10.0, long_scale=0.1, line_off=100.0, line_scale=-100.0,
        samp_off=150.0, samp_scale=100.0, line_num_coeff=lon, line_den_coeff=first, samp_num_coeff=lat, samp_den_coeff=first, err_bias=None, err_rand=None,
    )  # fmt: skip


def test_real_control_points_are_met(shared_data: Path):
    source = Source(shared_data / "rasters/s1_grd_gcps_no_crs.tif", InputSpec(("VV",), (0.0,), (1.0,)))
    profile = source.profile()
    gcps = profile["gcps"]
    rows, cols, x, y = (np.array([getattr(g, name) for g in gcps]) for name in ("row", "col", "x", "y"))
    got = to_map(rows - 0.5, cols - 0.5, profile)
    metres = np.hypot((got[0] - x) * 111_320 * np.cos(np.radians(y)), (got[1] - y) * 111_320)
    assert metres.max() < 0.01
    assert map_crs(profile).to_epsg() == 4326
    back = to_pixels(*got, profile)
    assert np.abs(np.stack(back) - [rows - 0.5, cols - 0.5]).max() < 0.5


def test_between_bent_control_points_the_spline_follows():
    profile = {"gcps": bent_points(), "crs": None}
    rng = np.random.default_rng(0)
    rows, cols = rng.uniform(20, 180, 50), rng.uniform(20, 280, 50)
    x, y = to_map(rows - 0.5, cols - 0.5, profile)
    want = np.array([bent(r, c) for r, c in zip(rows, cols, strict=True)]).T
    assert np.abs(np.stack([x, y]) - want).max() < 2  # 0.2 px; a polynomial of third order misses by 40 m and more
    assert np.abs(np.stack(to_pixels(x, y, profile)) + 0.5 - [rows, cols]).max() < 0.3


@pytest.mark.parametrize("places", [[0], [0, 1], [0, 0, 1], range(5)])
@pytest.mark.parametrize("of_map", [False, True])
def test_control_points_on_one_line_are_refused(places: Sequence[int], of_map: bool):
    bent = [i * i for i in places]
    points = [
        GroundControlPoint(*((b, i, i, i) if of_map else (i, i, b, i))) for i, b in zip(places, bent, strict=True)
    ]
    told = rf"its {len(places)} ground control points give no place on the map \(they lie on one line\)"
    with pytest.raises(InputError, match=told):
        to_map(np.array([3.0]), np.array([4.0]), {"gcps": points, "crs": None})


def test_a_transform_goes_before_control_points_and_they_before_polynomials(tmp_path: Path):
    path = tmp_path / "a.tif"
    gcps = [(0, 0, 1, 2), (0, 10, 2, 2), (10, 0, 1, 1)]
    with rasterio.open(path, "w", driver="GTiff", count=1, height=20, width=30, dtype="uint8") as out:
        out.write(np.ones((1, 20, 30), np.uint8))
    listed = "".join(f'<GCP Id="{i}" Line="{r}" Pixel="{c}" X="{x}" Y="{y}"/>' for i, (r, c, x, y) in enumerate(gcps))
    aux = tmp_path / "a.tif.aux.xml"
    text = f'<PAMDataset><GCPList Projection="EPSG:4326">{listed}</GCPList>%s</PAMDataset>'
    spec = InputSpec(("a",), (0.0,), (1.0,))
    aux.write_text(text % "<GeoTransform>5,1,0,6,0,-1</GeoTransform>")
    both = Source(path, spec).profile()
    assert both["transform"] == Affine(1, 0, 5, 0, -1, 6)
    assert "gcps" not in both
    assert map_crs(both) is None  # GDAL gives the points' one only, which need not be the transform's
    assert [v.tolist() for v in to_map(np.array([0.0]), np.array([2.0]), both)] == [[7.5], [5.5]]
    with rasterio.open(
        tmp_path / "b.tif", "w", driver="GTiff", count=1, height=20, width=30, dtype="uint8", rpcs=polynomials()
    ) as out:
        out.write(np.ones((1, 20, 30), np.uint8))
    (tmp_path / "b.tif.aux.xml").write_text(text % "")
    profile = Source(tmp_path / "b.tif", spec).profile()
    assert profile["rpcs"] is not None
    x, y = to_map(np.array([4.5]), np.array([9.5]), profile)
    assert (x[0], y[0]) == pytest.approx((2, 1.5))


def test_polynomials_alone_give_degrees():
    profile = {"rpcs": polynomials(), "crs": None}
    assert map_crs(profile).to_epsg() == 4326
    assert map_crs(profile | {"transform": AFFINE, "crs": "of the transform"}) == "of the transform"
    assert map_crs(profile | {"gcps": bent_points(100), "crs": "of the points"}) == "of the points"
    rows, cols = np.array([100.0, 60.0]), np.array([150.0, 200.0])
    x, y = to_map(rows, cols, profile)
    np.testing.assert_allclose([x, y], [[10, 10.05], [45, 45.04]], atol=1e-4)
    np.testing.assert_allclose(to_pixels(x, y, profile), [rows, cols], atol=0.01)


@pytest.mark.parametrize("profile", [{"transform": AFFINE}, {}, {"gcps": bent_points(100)}, {"rpcs": polynomials()}])
def test_there_and_back_and_nothing_of_nothing(profile: dict):
    rows, cols = np.array([0.0, 10.25]), np.array([3.0, 77.5])
    np.testing.assert_allclose(to_pixels(*to_map(rows, cols, profile), profile), [rows, cols], atol=0.05)
    assert [len(each) for each in to_map(np.zeros(0), np.zeros(0), profile)] == [0, 0]
    if profile.get("transform"):
        assert to_map(rows, cols, profile)[0][1] == 9 * 78 + 2 * 10.75 + 500_000
    if not profile:
        assert to_map(rows, cols, profile)[0].tolist() == [3.5, 78.0]


@pytest.mark.parametrize(("east", "apart"), [(0.0, None), (5.0, None), (9.0, "0.9"), (-3000.0, "300")])
def test_grids_of_control_points_are_compared_by_place(east: float, apart: str | None):
    def grid(east: float) -> dict[str, Any]:
        places = [(row, col) for row in (0, 50, 100) for col in (0, 50, 100)]
        points = [GroundControlPoint(row, col, 5e5 + 10 * col + east, 6e6 - 10 * row) for row, col in places]
        return {"height": 100, "width": 100, "crs": rasterio.CRS.from_epsg(32632), "gcps": points}

    own = grid(0.0)
    mapped = own | {"transform": Affine(10, 0, 5e5, 0, -10, 6e6)}
    for other in (own, mapped):
        with (
            nullcontext() if apart is None else pytest.raises(InputError, match=f"a: up to {apart} pixels away from b")
        ):
            check_same_grid(Path("a"), grid(east), Path("b"), other)
    flat = own | {"transform": Affine(0, 0, 5e5, 0, 0, 6e6)}
    with pytest.raises(InputError, match="a: up to inf pixels away"):
        check_same_grid(Path("a"), own, Path("b"), flat)
