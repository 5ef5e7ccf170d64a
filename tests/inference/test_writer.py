from pathlib import Path

import numpy as np
import pytest
import rasterio

from xt.inference.creation import check_creation
from xt.inference.writer import BandWriter
from xt.tasks.base import Product


def writer(path: Path, height: int, block: int) -> BandWriter:
    settings = check_creation({"BLOCKXSIZE": "64", "BLOCKYSIZE": str(block)}, "uint8", 1)
    return BandWriter(path, path, {"height": height, "width": 64}, Product(("class",), "uint8", 255), settings)


@pytest.mark.parametrize(("block", "written"), [(64, [192, 448, 640]), (512, [0, 0, 640]), (256, [0, 256, 640])])
def test_only_whole_blocks_are_written(tmp_path: Path, block: int, written: list[int]):
    """A compressed block that is written again leaves a hole in the file."""
    rows = np.random.default_rng(0).integers(0, 200, (1, 640, 64), dtype=np.uint8)
    seen = []
    with writer(tmp_path / "o.tif", 640, block) as out:
        for start, stop in ((0, 200), (200, 450), (450, 640)):
            out.write(rows[:, start:stop])
            seen.append(out._written)
    assert seen == written
    with rasterio.open(tmp_path / "o.tif") as back:
        assert np.array_equal(back.read(), rows)


def test_file_is_closed_when_the_work_fails(tmp_path: Path):
    out = writer(tmp_path / "o.tif", 64, 64)
    with pytest.raises(KeyboardInterrupt), out:
        raise KeyboardInterrupt
    assert out._out.closed
