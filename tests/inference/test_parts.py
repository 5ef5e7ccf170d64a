"""Blocks of a result are written while the model goes on: few wait, and what no commit tells of is removed."""

from pathlib import Path

import numpy as np
import pytest

from xt.geometry.grid import Window
from xt.inference.parts import WAITING, PartWriter
from xt.tasks.base import Product

CLASSES = Product(("class",), "uint8", 255)


@pytest.fixture
def writer(tmp_path: Path) -> PartWriter:
    return PartWriter(tmp_path, CLASSES)


def write(writer: PartWriter, row: int) -> None:
    writer.write(Window(row, 0, 16, 16), np.full((1, 16, 16), row, np.uint8))


def test_few_blocks_wait_in_memory(writer: PartWriter):
    with writer:
        for row in range(0, 160, 16):
            write(writer, row)
            assert len(writer._waiting) <= WAITING + 1
        assert len(writer.save()) == len(writer.parts) == 10


def test_blocks_that_no_save_tells_of_are_removed(writer: PartWriter, tmp_path: Path):
    with writer:
        write(writer, 0)
        saved = writer.save()
        write(writer, 16)
        writer.save()
    with PartWriter(tmp_path, CLASSES) as again:
        assert again.restore(saved)
        assert [(part.path.name, part.window) for part in again.parts] == [("0_0.tif", Window(0, 0, 16, 16))]
    assert [path.name for path in tmp_path.iterdir()] == ["0_0.tif"]
