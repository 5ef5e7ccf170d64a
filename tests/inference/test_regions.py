"""Encoded regions that are kept on disk: what a save left is there until the next one counts, and damage is seen."""

from pathlib import Path

import pytest
import torch

from xt.errors import OutputError
from xt.inference.regions import Region, RegionStore, Shapes

SHAPES = Shapes((1, 4, 4), ((2, 2, 2), (3, 1, 1)))


def region(value: float) -> Region:
    maps = [torch.full(shape, value) for shape in SHAPES.maps]
    return Region(torch.full(SHAPES.image, value), torch.ones(4, 4, dtype=torch.bool), maps, torch.zeros(3, 1, 1))


def store(folder: Path, room: int = 1) -> RegionStore:
    folder.mkdir(exist_ok=True)
    return RegionStore(folder, SHAPES, room * SHAPES.nbytes, torch.device("cpu"))


def value(given: RegionStore, place: tuple[int, int]) -> float:
    found = given.get(place)
    assert found is not None
    return float(found.image[0, 0, 0])


@pytest.mark.parametrize("again", [False, True])
def test_what_a_save_left_stays_until_the_next_one_counts(tmp_path: Path, again: bool):
    first = store(tmp_path / "r")
    for col in range(3):
        first.put((0, col), region(col))
    saved = first.save()
    going_on = store(tmp_path / "r") if again else first
    assert not again or going_on.restore(saved)
    for col in range(3):
        going_on.put((0, col), region(10 + col))
    going_on.drop((0, 2))
    later = going_on.save()
    back = store(tmp_path / "r", 3)
    assert back.restore(saved)  # killed before the later save counts
    assert [value(back, (0, col)) for col in range(3)] == [0, 1, 2]
    assert not store(tmp_path / "r").restore(later)  # files of no save are removed


def test_files_of_an_earlier_save_go_when_the_later_one_counts(tmp_path: Path):
    kept = store(tmp_path / "r")
    for round_ in range(3):
        for col in range(2):
            kept.put((0, col), region(round_))
        kept.save()
        kept.forget_old()
        assert len(list((tmp_path / "r").iterdir())) == 2


def test_what_was_asked_for_last_stays_in_memory(tmp_path: Path):
    kept = store(tmp_path / "r", 2)
    kept.put((0, 0), region(0))
    kept.put((0, 1), region(1))
    assert value(kept, (0, 0)) == 0
    kept.put((0, 2), region(2))
    assert [path.name.partition(".")[0] for path in (tmp_path / "r").iterdir()] == ["0_1"]
    assert [value(kept, (0, col)) for col in (1, 2, 0)] == [1, 2, 0]


def test_a_file_that_was_damaged_meanwhile_is_named(tmp_path: Path):
    kept = store(tmp_path / "r")
    kept.put((0, 0), region(1))
    kept.put((0, 1), region(2))  # for which the first one makes room
    (path,) = (tmp_path / "r").iterdir()
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    with pytest.raises(OutputError, match="is damaged; check the disk and run again"):
        kept.get((0, 0))
