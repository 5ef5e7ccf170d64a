import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from xt.errors import OutputError
from xt.geometry.grid import TokenLayout
from xt.inference.feature_store import FeatureStore

LAYOUT = TokenLayout(3, 4, 2)


def record(index: int, channels: int = 5) -> Tensor:
    return torch.randn(channels, 2, 2, generator=torch.Generator().manual_seed(index))


def in_child(work: Callable[[], object]) -> int:
    """Exit code of a copy of this process that does some work."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_records_are_read_as_written_in_any_order_by_region_and_by_row(dtype: torch.dtype, tmp_path: Path):
    order = [7, 0, 11, 4, 5, 2, 6]
    with FeatureStore.create(tmp_path / "f", 5, LAYOUT, dtype) as store:
        sums = {index: store.write(index, record(index)) for index in order}
        for index in order:
            assert store.read(index).dtype == dtype
            assert torch.equal(store.read(index), record(index).to(dtype))
        empty = torch.zeros(5, 2, 2, dtype=dtype)
        assert torch.equal(store.read(3), empty)
        row = store.read_row(1)
        assert torch.equal(row, torch.cat([record(index).to(dtype) for index in (4, 5, 6, 7)], 2))
        assert torch.equal(store.read_row(2), torch.cat([empty] * 3 + [record(11).to(dtype)], 2))
        assert sums == {index: store.checksum(index) for index in order}
        assert len(set(sums.values())) == len(order)
        store.write(4, record(99))
        assert store.checksum(4) != sums[4]
        assert store.checksum(5) == sums[5]


def test_strided_records_of_another_type_and_with_gradient_are_taken(tmp_path: Path):
    with FeatureStore.create(tmp_path / "f", 5, LAYOUT) as store:
        given = torch.randn(2, 2, 5, dtype=torch.float64, requires_grad=True).permute(2, 0, 1)
        store.write(3, given)
        assert torch.equal(store.read(3), given.detach().float())


def test_what_a_killed_run_wrote_is_there(tmp_path: Path):
    path, features = tmp_path / "f", record(6)

    def write_and_die() -> None:
        FeatureStore.create(path, 5, LAYOUT).write(6, features)
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(write_and_die) == -signal.SIGKILL
    with FeatureStore.open(path) as store:
        assert (store.channels, store.layout, store.dtype) == (5, LAYOUT, torch.float32)
        assert torch.equal(store.read(6), features)
        assert store.checksum(6) == store.write(7, features)
    with FeatureStore.open(path) as again:
        assert torch.equal(again.read(7), features)


def test_a_file_that_was_not_finished_or_is_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "f"
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda *_: os._exit(7))
        assert in_child(lambda: FeatureStore.create(path, 5, LAYOUT)) == 7
    with pytest.raises(OutputError, match=r"f holds no features, or was not finished; remove it and start again"):
        FeatureStore.open(path)
    FeatureStore.create(path, 5, LAYOUT).close()
    later = path.read_bytes().replace(b"xT features 1", b"xT features 2")
    os.truncate(path, path.stat().st_size - 1)
    for content in (path.read_bytes(), later, b"", b"[1]", b'{"rows": 0, "cols": 1, "side": 1}', b"\xff"):
        path.write_bytes(content)
        with pytest.raises(OutputError, match="holds no features"):
            FeatureStore.open(path)
    with pytest.raises(OutputError, match=r"none cannot be used: No such file or directory"):
        FeatureStore.open(tmp_path / "none")


def test_a_file_cut_short_meanwhile_is_told(tmp_path: Path):
    with FeatureStore.create(tmp_path / "f", 5, LAYOUT) as store:
        os.truncate(tmp_path / "f", store.nbytes - 8)
        assert store.read(10).shape == (5, 2, 2)
        with pytest.raises(OutputError, match="f ends too early; remove it and start again"):
            store.read(11)


def room(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_room_is_taken_at_once_but_not_for_regions_that_do_not_exist(tmp_path: Path):
    exists = tuple(index in {1, 2, 3, 11} for index in range(12))
    record_bytes = 4096 * 4 * 4
    whole, sparse = tmp_path / "whole", tmp_path / "sparse"
    FeatureStore.create(whole, 4096, LAYOUT).close()
    with FeatureStore.create(sparse, 4096, TokenLayout(3, 4, 2, exists)) as store:
        assert whole.stat().st_size == sparse.stat().st_size == store.nbytes
        assert 12 * record_bytes <= room(whole)
        assert 4 * record_bytes <= room(sparse) <= 5 * record_bytes
        taken = room(sparse)
        store.write(11, torch.ones(4096, 2, 2))
        assert room(sparse) == taken
        assert not store.read(0).any()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_room_is_noticed_before_the_work_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with largest_file(2**20), pytest.raises(OutputError, match=r"f cannot be used: File too large \(it needs 4 MiB, "):
        FeatureStore.create(tmp_path / "f", 4096, TokenLayout(4, 15, 2))
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        OutputError, match=r"f cannot be used: No space left on device \(it needs 1 MiB, \d+ MiB are free"
    ):
        FeatureStore.create(tmp_path / "f", 5, LAYOUT)
    assert list(tmp_path.iterdir()) == []


def test_writes_and_reads_that_stop_short_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pwrite, preadv = os.pwrite, os.preadv
    with FeatureStore.create(tmp_path / "f", 5, LAYOUT) as store:
        monkeypatch.setattr(os, "pwrite", lambda handle, left, offset: pwrite(handle, left[:7], offset))
        monkeypatch.setattr(os, "preadv", lambda handle, left, offset: preadv(handle, [left[0][:11]], offset))
        store.write(2, record(2))
        assert torch.equal(store.read(2), record(2))
