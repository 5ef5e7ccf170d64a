"""Shares on a Ray cluster: nodes may die, and the result has the bits of a single run."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio
from small_inputs import noise, raster, save

from xt.cli.main import main
from xt.errors import InputError, Stopped
from xt.inference import ray_engine
from xt.inference.options import PredictOptions
from xt.inference.ray_engine import _slots, predict_on_ray
from xt.stopping import StopRequest

SLOW = '''
"""A context that takes its time; whoever imports it commits after every window."""
import os, time
from xt import plugins
from xt.inference import engine
from xt.models.context.identity import Identity

engine.COMMIT_SECONDS = 0.0


@plugins.register("context_encoders")
class Slow(Identity):
    def forward(self, tokens, layout):
        with open("told", "a") as file:
            file.write(f"{os.getpid()}\\n")
        time.sleep(float(os.environ.get("SLOW", "0")))
        return super().forward(tokens, layout)
'''


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an image, a model with a slow context, and what a single run gives."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slow_context.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    from xt import plugins

    plugins.load_modules(["slow_context"])
    raster(tmp_path / "a.tif", noise(1, 500, 400))
    save(tmp_path / "m", "semantic-segmentation", 1, 128, "Slow")
    assert main([*ARGV, "-o", "whole.tif"]) == 0
    (tmp_path / "told").unlink()
    return tmp_path


ARGV = ["predict", "a.tif", "-m", "m", "--plugins", "slow_context", "--device", "cpu"]


def test_a_share_takes_a_gpu_or_else_a_node():
    def node(alive: bool = True, **resources: float) -> dict[str, object]:
        return {"Alive": alive, "Resources": resources}

    assert _slots([node(CPU=4.0), node(CPU=9.0), node(False, CPU=64.0), node(memory=1.0)], None) == (
        {"num_cpus": 4.0},
        3,
    )
    gpus = [node(CPU=16.0, GPU=4.0), node(CPU=8.0, GPU=1.0), node(CPU=64.0)]
    assert _slots(gpus, None) == ({"num_gpus": 1, "num_cpus": 4.0}, 5)
    assert _slots(gpus, "cpu")[0] == {"num_cpus": 8.0}


def test_without_ray_one_line_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, place: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*ARGV, "-o", "o.tif", "--engine", "ray"]) == 2
    assert capsys.readouterr().err == "xt: error: --engine ray needs Ray; install it: pip install 'xt[ray]'\n"
    assert main([*ARGV, "-o", "o.tif", "--engine", "ray", "--shard", "1/2"]) == 2
    assert "leave out --shard" in capsys.readouterr().err


class TaskError(Exception):
    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class Here:
    """What is used of Ray; a share runs in this process when it is asked for, in whatever folder that is."""

    exceptions = SimpleNamespace(RayTaskError=TaskError)

    def __init__(self) -> None:
        self.given: list[dict[str, Any]] = []
        self.shares: list[tuple[int, int]] = []
        self.asked: set[Any] = set()
        self.ended = 0

    def init(self, **options: Any) -> None:
        if options["address"] == "nowhere":
            raise ConnectionError("no cluster there\nand more")

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": False, "Resources": {"CPU": 2.0}}]

    def remote(self, task: Callable[..., Any]) -> Any:
        def begun(*of: Any) -> Callable[[], Any]:
            self.shares.append(of[-1].share)
            self.asked.add(of[2:4])
            return lambda: task(*of)

        return SimpleNamespace(options=lambda **given: self.given.append(given) or SimpleNamespace(remote=begun))

    def wait(self, pending: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return pending[:1], pending[1:]

    def get(self, tasks: list[Callable[[], Any]]) -> None:
        for task in tasks:
            os.chdir("/")
            try:
                task()
            except Exception as error:
                raise TaskError(error) from error

    def shutdown(self) -> None:
        self.ended += 1


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    """A folder with a small image and a model, where Ray is what stands above."""
    monkeypatch.chdir(tmp_path)
    raster(tmp_path / "a.tif", noise(1, 150, 70))
    save(tmp_path / "m", "semantic-segmentation", 1)
    (tmp_path / "my_ray_module.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    ray_engine._loaded.cache_clear()
    found = Here()
    monkeypatch.setitem(sys.modules, "ray", found)
    return found


def test_shares_that_a_cluster_made_are_joined(here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    argv = ["predict", "a.tif", "-m", "m", "--device", "cpu", "--plugins", "my_ray_module"]
    assert main([*argv, "-o", "whole.tif"]) == 0
    argv += ["-o", "o.tif", "--engine", "ray"]
    assert main(argv) == 0
    same(tmp_path)
    Path("o.tif").write_bytes(b"spoilt since")
    assert main([*argv, "--overwrite"]) == 0
    same(tmp_path)
    assert here.shares == [(1, 2), (2, 2)] * 2
    assert here.asked == {(("my_ray_module",), "cpu")}
    assert here.given == [{"max_retries": -1, "scheduling_strategy": "SPREAD", "num_cpus": 2.0}] * 2
    assert here.ended == 2
    assert main([*argv, "--overwrite", "--address", "nowhere"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "xt: error: --address nowhere: no cluster there"


def test_what_ends_a_share_ends_the_work(here: Here, tmp_path: Path):
    told: list[tuple[int, int]] = []

    def run(image: str = "a.tif", options: Any = PredictOptions(), stop: StopRequest | None = None) -> None:  # noqa: B008
        os.chdir(tmp_path)
        given = Path("m"), Path(image), Path("o.tif"), options
        predict_on_ray(*given, progress=lambda *each: told.append(each), stop=stop)

    with pytest.raises(InputError, match=r"none\.tif: no such file"):
        run("none.tif")
    stop = StopRequest()
    stop.received = signal.SIGINT
    with pytest.raises(Stopped):
        run(stop=stop)
    assert not list(tmp_path.glob("*job*"))
    with pytest.raises(TaskError):  # a fault of ours is no XTError, and told with the place in the code
        run(options=replace(PredictOptions(), creation=None))
    assert (here.ended, told) == (3, [(0, 2)] * 3)
    run(stop=StopRequest())
    assert told[3:] == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.slow
def test_a_node_that_dies_half_way_costs_no_bit(place: Path):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "env_vars": {"SLOW": "0.5"}})
    try:
        second = cluster.add_node(num_cpus=1, env_vars={"SLOW": "0.5"})
        command = [
            sys.executable,
            "-m",
            "xt.cli.main",
            *ARGV,
            "-o",
            "o.tif",
            "--engine",
            "ray",
            "--address",
            cluster.address,
        ]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and len(set(told())) < 2:
                time.sleep(0.1)
            while time.monotonic() < deadline and len(told()) < 12:
                time.sleep(0.1)
            workers = set(told())
            assert len(workers) == 2
            cluster.remove_node(second, allow_graceful=False)
            assert run.wait(240) == 0, run.stderr and run.stderr.read()
        assert len(set(told()[-4:])) == 1  # the node that was left did the rest
    finally:
        cluster.shutdown()
    same(place)


@pytest.mark.slow
def test_ctrl_c_ends_the_shares_and_the_next_run_goes_on(place: Path):
    pytest.importorskip("ray")
    command = [sys.executable, "-m", "xt.cli.main", *ARGV, "-o", "o.tif", "--engine", "ray"]
    environment = os.environ | {"SLOW": "0.5"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as run:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and len(told()) < 6:
            time.sleep(0.1)
        run.send_signal(signal.SIGINT)
        assert run.wait(60) == 130
        assert run.stderr.read().splitlines()[-1] == "xt: interrupted"
    assert not (place / "o.tif").exists()
    before = len(told())
    time.sleep(2)
    assert len(told()) == before
    assert subprocess.run(command).returncode == 0
    same(place)


def told() -> list[str]:
    return Path("told").read_text().split() if Path("told").exists() else []


def same(place: Path) -> None:
    with rasterio.open("whole.tif") as one, rasterio.open("o.tif") as other:
        np.testing.assert_array_equal(one.read(), other.read())
    assert not list(place.glob(".*job*"))
