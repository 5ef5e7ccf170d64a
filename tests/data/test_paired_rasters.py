"""Images and rasters of their pixels: what is measured of them, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio import Affine
from rasters import GRID, UTM, write

from xt.data.masks import MaskReader
from xt.data.raster_pairs import RasterPairsData
from xt.errors import ConfigError, InputError


def pairs(root: Path, **levels: float) -> Path:
    """Images of one value each, by name, and empty masks."""
    for name, level in levels.items():
        write(root / f"images/{name}.tif", np.full((1, 8, 9), level, np.float32))
        write(root / f"masks/{name}.tif", np.zeros((8, 9), np.uint8))
    return root


def data(root: Path, **options: Any) -> RasterPairsData:
    return RasterPairsData(str(root), ["sea", "ship"], ["amplitude"], "^v", image_size=8, **options)


def test_training_images_alone_are_measured_whatever_is_asked_for(tmp_path: Path):
    found = data(pairs(tmp_path, a=1.0, b=3.0, v=50.0))
    found.dataset("test")
    assert (found.mean, found.std) == ((2.0,), (1.0,))


def test_what_cannot_be_measured_is_said(tmp_path: Path):
    pairs(tmp_path, v=50.0)
    assert len(data(tmp_path, mean=[0.0], std=[1.0]).dataset("test")) == 1
    with pytest.raises(InputError, match="no train image"):
        data(tmp_path).dataset("test")
    for given in ({"mean": [0.0]}, {"std": [1.0]}):
        with pytest.raises(ConfigError, match="give both mean and std, or neither"):
            data(tmp_path, **given)


def test_a_split_without_images_is_said_before_training(tmp_path: Path):
    pairs(tmp_path, a=1.0)
    for given in ({}, {"mean": [0.0], "std": [1.0]}):
        with pytest.raises(InputError, match=r"no validation image: validation '\^v'.*; names are such as 'a'"):
            data(tmp_path, **given).dataset("train")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"crs": UTM, "transform": GRID}, None),
        ({"crs": UTM, "transform": GRID * Affine.translation(0.5, 0.5)}, None),  # a pixel is a point to some
        ({"crs": None}, None),
        (
            {
                "crs": rasterio.CRS.from_epsg(32632).to_wkt().replace("WGS 84 / UTM zone 32N", "UTM 32"),
                "transform": GRID,
            },
            None,
        ),
        ({"crs": UTM, "transform": GRID * Affine.translation(0, 1)}, "up to 1 pixels away from"),
        ({"crs": UTM, "transform": GRID * Affine.scale(1.2)}, "up to 1.8 pixels away from"),
        ({"crs": "EPSG:32633", "transform": GRID}, "another CRS than"),
        ({"crs": "EPSG:4326", "transform": GRID}, "another CRS than"),
    ],
)
def test_a_mask_lies_on_the_grid_of_its_image(tmp_path: Path, options: dict[str, Any], said: str | None):
    write(tmp_path / "images/a.tif", np.ones((1, 8, 9), np.float32), crs=UTM, transform=GRID)
    pairs(tmp_path, v=2.0)
    write(tmp_path / "masks/a.tif", np.eye(8, 9, dtype=np.uint8), **options)
    if said is None:
        assert len(data(tmp_path).dataset("train"))
    else:
        with pytest.raises(InputError, match=rf"masks/a\.tif: {said}.* .*images/a\.tif; warp it to that grid"):
            data(tmp_path).dataset("train")


def test_what_a_mask_of_the_file_hides_is_not_known(tmp_path: Path):
    hidden = np.zeros((8, 9), np.uint8)
    hidden[2:] = 255
    path = write(tmp_path / "m.tif", np.ones((8, 9), np.uint8), mask=hidden)
    found = MaskReader(2, 255).read(path)
    assert (found[:2] == 255).all()
    assert (found[2:] == 1).all()


def test_transparency_is_no_band_of_a_mask(tmp_path: Path):
    pairs(tmp_path, a=1.0, v=2.0)
    for name in ("a", "v"):
        (tmp_path / f"masks/{name}.tif").unlink()
        mask = np.stack([np.ones((8, 9), np.uint8), np.full((8, 9), 255, np.uint8)], -1)
        mask[:2, :, 1] = 0  # what is transparent is a class all the same
        Image.fromarray(mask, "LA").save(tmp_path / f"masks/{name}.png")
    assert (data(tmp_path).dataset("test")[0, 0]["mask"] == 1).all()
