from dataclasses import replace

import pytest
import torch

from xt.errors import ModelError
from xt.geometry.grid import RegionGrid
from xt.models.pyramid import FeaturePyramid

GRID = RegionGrid(40, 70, 32, (64, 32))


def pyramid(**changes: object) -> FeaturePyramid:
    maps = torch.zeros(2, 4, 16, 24), torch.zeros(2, 8, 4, 6)
    values = {"image": torch.zeros(2, 3, 40, 70), "maps": maps, "strides": (4, 16), "grid": GRID}
    return FeaturePyramid(**values | changes)


def test_it_is_a_value_that_knows_its_place():
    first = pyramid()
    assert first.origin == (64, 32)
    other = replace(first, maps=(first.maps[0], first.maps[1] + 1))
    assert first.maps[1].sum() == 0
    assert other.image is first.image
    with pytest.raises(AttributeError):
        first.maps = ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": torch.zeros(2, 3, 70, 40)}, r"image \(2, 3, 70, 40\) is not of 40 × 70 px"),
        ({"maps": (torch.zeros(2, 4, 16, 24),)}, r"strides \(4, 16\)"),
        ({"maps": (torch.zeros(2, 4, 16, 24), torch.zeros(2, 8, 3, 6))}, r"\(2, 4, 6\)\], got .*\(2, 3, 6\)\]"),
        ({"maps": (torch.zeros(1, 4, 16, 24), torch.zeros(2, 8, 4, 6))}, r"got \[\(1, 16, 24\)"),
        ({"strides": (4, 8)}, r"\(2, 8, 12\)\], got"),
        ({"exists": ((True,) * 6,)}, "6 flags for each of 2 images"),
        ({"exists": ((True,) * 5,) * 2}, "6 flags for each of 2 images"),
    ],
)
def test_sizes_that_do_not_fit_are_said(changes: dict, message: str):
    with pytest.raises(ModelError, match=message):
        pyramid(**changes)
