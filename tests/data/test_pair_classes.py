"""Training masks from which nothing could be learnt are refused."""

from pathlib import Path

import numpy as np
import pytest
from rasters import noise, write

from xt.data.raster_pairs import RasterPairsData
from xt.errors import InputError

OBJECT = np.eye(20, 30, dtype=np.uint8)


def data(root: Path, mask: np.ndarray, nodata: float | None = None, **options: object) -> RasterPairsData:
    for name, array in (("a", OBJECT * 0), ("b", mask), ("v", OBJECT)):
        write(root / f"images/{name}.tif", noise(1, 20, 30))
        write(root / f"masks/{name}.tif", np.broadcast_to(array, mask.shape), nodata=nodata)
    return RasterPairsData(str(root), ["sea", "ship"], ["amplitude"], "^v", image_size=16, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        (255 * OBJECT, {}, r"hold class 'sea' alone: pixels of 255 .*number the classes 0 to 1"),
        (OBJECT, {"nodata": 0}, r"hold class 'ship' alone: .*take the nodata tag away"),
        (255 * OBJECT, {"nodata": 0}, "hold no class"),
        (
            np.stack([255 * OBJECT] * 3), {"colors": [(0, 255, 0)]},
            r"hold class 'sea' alone: no pixel has a colour of data\.init_args\.colors",
        ),
    ],
)  # fmt: skip
def test_masks_of_one_class_are_refused(tmp_path: Path, mask: np.ndarray, options: dict[str, object], message: str):
    nodata = options.pop("nodata", None)
    with pytest.raises(InputError, match=message):
        data(tmp_path, mask, nodata, **options).setup("fit")


def test_masks_of_two_classes_in_one_image_of_several_are_taken(tmp_path: Path):
    data(tmp_path, OBJECT).setup("fit")
