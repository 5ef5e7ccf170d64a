"""Tasks of a kernel on threads."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from xt_kernels.simd import threads


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["PyTorch's", "own"])
def _kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "own":
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    elif threads._openmp() is None:
        pytest.skip("PyTorch is without an OpenMP that can be called")


@pytest.mark.usefixtures("_kind")
def test_each_task_is_done_once_and_as_many_at_a_time_as_are_worth_it():
    together, done = threading.Barrier(3), []

    def kernel(task: int, more: str) -> None:
        together.wait(60)  # for two others: breaks unless three threads are at work
        done.append((task, more, threading.get_native_id()))

    threads.run(kernel, 9, 100, ("given",))
    assert sorted(each[:2] for each in done) == [(task, "given") for task in range(9)]
    together, done = threading.Barrier(2), []
    threads.run(kernel, 8, 2, ("given",))
    assert len({thread for *_, thread in done}) == 2
    together, done = threading.Barrier(1), []
    threads.run(kernel, 8, 1, ("given",))
    assert {thread for *_, thread in done} == {threading.get_native_id()}
    threads.run(kernel, 0, 5, ("given",))
    assert len(done) == 8


@pytest.mark.usefixtures("_kind")
def test_an_error_of_any_thread_comes_out():
    together = threading.Barrier(3)

    def kernel(task: int) -> None:
        together.wait(60)
        if threading.current_thread() is not threading.main_thread():
            raise ValueError(f"task {task}")

    with pytest.raises(ValueError, match=r"task [0-2]"):
        threads.run(kernel, 3, 3, ())


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the threads of a process")
def test_pytorchs_threads_are_used_and_stay():
    if threads._openmp() is None:
        pytest.skip("PyTorch is without an OpenMP that can be called")

    def alive() -> set[str]:
        torch.ones(1 << 20).exp_()
        return {each.name for each in Path("/proc/self/task").iterdir()}

    before, used = alive(), []
    for worth in (2, 3):
        threads.run(lambda _: used.append(str(threading.get_native_id())), 50, worth, ())
    assert set(used) <= before
    assert alive() == before
