import pickle
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from xt.data.shoreline import read_shoreline, write_shoreline
from xt.errors import InputError, OutputError


def test_round_trip_and_plain_numpy_reads_it(tmp_path: Path):
    contours = [np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.5, 6.0]])]
    path = tmp_path / "a_shoreline.npy"
    write_shoreline(path, contours)
    for got in (read_shoreline(path), list(np.load(path, allow_pickle=True))):
        assert all(np.array_equal(a, b) for a, b in zip(got, contours, strict=True))


def test_equal_lengths_and_none(tmp_path: Path):
    path = tmp_path / "a.npy"
    write_shoreline(path, [np.zeros((2, 2)), np.ones((2, 2))])
    assert [c.shape for c in read_shoreline(path)] == [(2, 2), (2, 2)]
    write_shoreline(path, [])
    assert read_shoreline(path) == []


def test_failed_write_says_so_and_keeps_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.npy"
    write_shoreline(path, [np.zeros((2, 2))])

    def full(file: BinaryIO, *args: object, **options: object) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OutputError, match=r"a\.npy cannot be written: No space left"):
        write_shoreline(path, [])
    assert len(read_shoreline(path)) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_real_files(shared_data: Path):
    for path in (shared_data / "golden/xview3_metric").glob("*/shoreline/*.npy"):
        want = np.load(path, allow_pickle=True)
        got = read_shoreline(path)
        assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))


class Bad:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_no_file_can_run_code(tmp_path: Path):
    array = np.empty(1, dtype=object)
    array[0] = Bad(tmp_path / "ran")
    np.save(tmp_path / "bad.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match="it asks for pathlib"):
        read_shoreline(tmp_path / "bad.npy")
    assert not (tmp_path / "ran").exists()
    (tmp_path / "junk.npy").write_bytes(pickle.dumps([1]))
    with pytest.raises(InputError, match=r"junk\.npy: is not a shoreline file"):
        read_shoreline(tmp_path / "junk.npy")
