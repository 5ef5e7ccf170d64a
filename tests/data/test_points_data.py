from pathlib import Path

import numpy as np
import pytest
from point_images import PLACES, build, csv, form
from rasterio.transform import Affine
from rasters import GRID, UTM, noise, write

from xt.data.points import PointsData
from xt.geometry.grid import Window


@pytest.mark.parametrize(
    "kind",
    ["pixels", "xview3", "map", "map of scenes", "folder", "geojson", "gpkg", "boxes", "shp", "fgb", "csv boxes"],
)
def test_objects_are_found_where_the_image_is_bright(root: Path, kind: str):
    data = build(root, form(root, kind), crops_per_scene=30, flips=kind == "pixels")
    assert {name: len(data.objects.scene(name)) for name in "abcv"} == {"a": 2, "b": 1, "c": 0, "v": 3}
    seen = 0
    for index in range(90):
        sample = data.datasets["train"][0, index]
        shown = {tuple(each) for each in np.argwhere(sample["image"][0] > 5).tolist()}
        peaks = {tuple(each) for each in np.argwhere(sample["targets"]["center"][0] == 255).tolist()}
        assert shown == peaks
        assert len(sample["points"]) == len(peaks)
        seen += len(peaks)
    assert seen > 30
    tiles = [data.datasets["validation"][0, index] for index in range(len(data.datasets["validation"]))]
    assert len(tiles) == 4
    got = sorted(
        (round(r), round(c)) for tile in tiles for r, c in zip(tile["points"].row, tile["points"].column, strict=True)
    )
    assert got == sorted(PLACES["v"])
    assert set(tiles[0]) == {"image", "valid", "targets", "name", "scene_id", "origin", "points"}


@pytest.mark.parametrize(("tile", "tiles"), [(None, 4), (100, 1), (50, 4)])
def test_validation_tiles_have_a_size_of_their_own(root: Path, tile: int | None, tiles: int):
    data = build(root, form(root, "pixels"), validation_tile=tile)
    split = data.datasets["validation"]
    assert len(split) == tiles
    assert {split[0, index]["image"].shape[-1] for index in range(tiles)} == {tile or 64}
    assert sum(len(split[0, index]["points"]) for index in range(tiles)) == 3
    assert data.datasets["train"][0, 0]["image"].shape[-1] == 64


def test_centres_are_as_wide_as_asked_for_and_reach_into_crops(root: Path):
    data = build(root, form(root, "pixels"), validation_tile=64, center_sigma=5.0)
    center = data.datasets["validation"][0, 0]["targets"]["center"][0]
    assert (center[0, 0], center[0, 5]) == (255, round(255 * np.exp(-0.5)))
    # The object at row 60, column 80 lies in the tile to the right.
    assert center[60, 63] == round(255 * np.exp(-(17**2) / 50))


@pytest.mark.parametrize(("flips", "num"), [(False, 2), (True, 8)])
def test_crops_are_seen_in_two_or_eight_ways(root: Path, flips: bool, num: int):
    crops = build(root, form(root, "pixels"), image_size=100, flips=flips, crops_per_scene=60).datasets["train"]
    pixels, _ = crops.readers[0].read(Window(0, 0, 100, 100))
    turns = [lambda values, k=k: np.rot90(values, k, (1, 2)) for k in range(4)]
    views = [turns[0], turns[2]] if not flips else turns + [lambda v, t=t: t(v).swapaxes(1, 2) for t in turns]
    seen = {np.asarray(crops[0, index]["image"]).tobytes() for index in range(0, 180, 3)}
    assert seen == {np.ascontiguousarray(view(pixels)).tobytes() for view in views}
    assert len(seen) == num


def test_gain_scales_training_crops_before_normalisation(root: Path):
    plain, scaled = (
        build(root, form(root, "pixels"), mean=[-10.0] * 2, std=[2.0] * 2, gain=gain) for gain in (0.0, 0.5)
    )
    factors = []
    for index in range(12):
        one, other = ((2 * data.datasets["train"][0, index]["image"] - 10) for data in (plain, scaled))
        factors.append(float(np.median(other / one)))
        np.testing.assert_allclose(other, factors[-1] * one, rtol=1e-3, atol=1e-4)
    assert 0.2 < np.log(factors).std() < 1
    same = (data.datasets["validation"][0, 0]["image"] for data in (plain, scaled))
    np.testing.assert_array_equal(*same)


@pytest.mark.parametrize("kind", ["gpkg", "shp"])
def test_what_is_not_said_is_unknown(root: Path, kind: str):
    table = build(root, form(root, kind)).objects
    assert np.isnan(table.is_vessel).all()
    assert np.isnan(table.is_fishing).all()
    assert sorted(table.vessel_length_m[~np.isnan(table.vessel_length_m)].tolist()) == [40, 50, 60, 70, 80]
    assert set(table.confidence) == {"HIGH"}
    assert build(root, form(root, "pixels")).objects.confidence.tolist() == ["HIGH"] * 6
    assert np.isnan(build(root, form(root, "map of scenes")).objects.is_fishing).all()
    assert sorted(build(root, form(root, "geojson")).objects.is_vessel.tolist()) == [0, 0, 0, 1, 1, 1]


def test_statistics_are_measured_and_scene_folders_are_read(tmp_path: Path):
    bands = {}
    for name in ("a", "v"):
        for band, seed in (("p", 1), ("q", 2)):
            bands[band] = noise(40, 50, seed=seed)
            write(tmp_path / f"images/{name}/{band}.tif", bands[band], crs=UTM, transform=GRID)
        write(
            tmp_path / f"images/{name}/depth.tif",
            noise(5, 6),
            crs=UTM,
            transform=Affine(100, 0, 500_000, 0, -100, 6_000_000),
        )
    csv(tmp_path / "points.csv", "row,column,scene_id", [(4, 5, "a"), (3, 3, "elsewhere")])
    data = PointsData(str(tmp_path), ["p", "q", "depth"], "^v", coarse=["depth"], image_size=32)
    data.setup("fit")
    np.testing.assert_allclose(data.mean[:2], [bands["p"].mean(), bands["q"].mean()], rtol=1e-5)
    assert data.inputs.coarse == ("depth",)
    assert data.datasets["train"][0, 0]["image"].shape == (3, 32, 32)
    assert len(data.objects) == 1


def test_objects_at_the_edges_of_tiles_are_in_one_each(root: Path):
    """Row 63.6 is nearest to the first of the second tile, and -0.4 to the first of the image."""
    csv(
        root / "p.csv",
        "scene_id,row,column",
        [("v", -0.4, 20), ("v", 20, -0.5), ("v", 63.6, 5), ("v", 63.4, 70), ("v", 63.5, 9), ("a", 1, 1)],
    )
    tiles = build(root, "p.csv").datasets["validation"]
    got = sorted((*tiles[0, i]["origin"], round(r, 1)) for i in range(len(tiles)) for r in tiles[0, i]["points"].row)
    assert [each[2] for each in got if each[:2] == (0, 0)] == [-0.4, 20]
    assert len(got) == 5
