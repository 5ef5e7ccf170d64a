"""Layers for programs of maps: decimals of a GeoJSON, and corners of edges that bend."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import shapely
from rasterio.transform import Affine

from xt.data.georeference import project
from xt.data.labels import LabelTable
from xt.inference.bending import bent
from xt.inference.layers import decimals
from xt.inference.points import write_points


def grid(side: float) -> dict[str, object]:
    transform = Affine(side, 0, 500_000.0, 0, -side, 5_400_000.0)
    return {"crs": rasterio.CRS.from_epsg(32632), "transform": transform, "height": 9, "width": 9}


@pytest.mark.parametrize(("side", "digits"), [(10.0, 7), (0.3, 8), (0.005, 10), (1e-9, 12)])
def test_a_hundredth_of_a_pixel_has_digits(side: float, digits: int):
    assert decimals(grid(side)) == digits


def test_points_of_small_pixels_are_told_apart(tmp_path: Path):
    table = LabelTable.build(2, row=np.zeros(2), column=np.array([3.0, 4.0]))
    write_points(tmp_path / "o.geojson", table, grid(0.001))
    features = json.loads((tmp_path / "o.geojson").read_text())["features"]
    lon, lat = np.transpose([each["geometry"]["coordinates"] for each in features])
    assert project("EPSG:4326", "EPSG:32632", lon, lat)[0] == pytest.approx([500_000.0035, 500_000.0045], abs=1e-4)


@pytest.mark.parametrize("lon", [179.997, 20.0])
def test_straight_edges_get_no_corners_at_the_antimeridian_either(lon: float):
    def place(at: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.stack([(lon + at[:, 0] * 1e-4 + 180) % 360 - 180, 65 - at[:, 1] * 5e-5], axis=1)

    (found,) = bent(np.array([shapely.box(0, 0, 64, 64)]), place, True)
    assert len(found.exterior.coords) == 5


def test_each_edge_gets_the_corners_that_it_needs():
    """Of two polygons, the second with a hole; only edges along the columns bend, as a parabola."""

    def place(at: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.stack([at[:, 0], at[:, 1] + at[:, 0] ** 2 / 100], axis=1)

    shapes = [shapely.box(0, 0, 40, 30), shapely.box(50, 0, 90, 30).difference(shapely.box(60, 10, 61, 20))]
    found = bent(np.array(shapes), place, False)
    assert all(each.equals(mine) for each, mine in zip(shapes, found, strict=True))
    for ring in (found[0].exterior, found[1].exterior):
        corners = np.array(ring.coords)
        sides = np.abs(np.diff(corners, axis=0))
        assert sides[:, 0].max() ** 2 / 400 <= 0.02 + 1e-9  # how far the middle of a chord lies from the parabola
        assert sides[:, 0][sides[:, 0] > 0].min() == 2.5
        assert sides[:, 1].max() == 30
    assert len(found[1].interiors[0].coords) == 5
