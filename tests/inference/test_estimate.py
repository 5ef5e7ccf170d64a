"""What a prediction will take, said before it starts; and a limit of memory that is kept."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_inputs import noise, raster, save

from xt.cli.main import main
from xt.data.source import Source
from xt.errors import ConfigError, MemoryLimitError
from xt.inference import engine, estimate, predict
from xt.inference.estimate import AROUND, Trial, budget_within, forget_peak, peak_memory
from xt.inference.first_pass import disk_bytes
from xt.inference.full_context import context_memory
from xt.inference.options import PredictOptions
from xt.inference.views import TURNS, Views
from xt.models.checkpoint import load_model
from xt.tasks.registry import task_of


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    image = noise(2, 330, 400)
    image[:, 192:] = -1
    raster(tmp_path / "a.tif", image, nodata=-1)
    save(tmp_path / "m", "point-detection", 2, 128, "Mamba")
    return tmp_path


@pytest.mark.parametrize("context", ["windows", "full"])
def test_a_dry_run_says_all_and_writes_nothing(
    place: Path, context: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    before = sorted(place.iterdir())
    argv = ["predict", "a.tif", "-m", "m", "-o", "o.tif", "--context", context]
    assert main([*argv, "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sorted(place.iterdir()) == before
    assert (told["height"], told["width"], told["regions"], told["empty"]) == (330, 400, 42, 0.5)
    assert told["result"] == int(330 * 400 * 4 * 4 * 4 / 3)
    assert told["seconds"] > 0
    assert peak_memory() < told["memory"] < peak_memory() + (1 << 30)
    assert told["disk"] > told["result"]
    assert main([*argv, "--dry-run"]) == 0
    assert "a.tif: 330 × 400 px, 42 regions, about 50% without data, " in capsys.readouterr().out
    windows = []
    plain = engine.Scene._decode
    monkeypatch.setattr(engine.Scene, "_decode", lambda scene, unit: (windows.append(unit), plain(scene, unit)))
    assert main(argv) == 0
    assert len(windows) == told["windows"]


def test_what_is_loaded_at_a_first_run_is_not_counted_for_each_window(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    ran: list[tuple[int, tuple[int, int], tuple[int, int]]] = []

    def run(model: Any, plan: Any, batch: int, window: tuple[int, int], size: tuple[int, int]) -> tuple[float, ...]:
        ran.append((batch, window, size))
        return (HUGE,) * 3 if len(ran) == 1 else (1.0,) * 3

    monkeypatch.setattr(estimate, "_run", run)
    assert main(["predict", "a.tif", "-m", "m", "-o", "o.tif", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert ran == [(1, (1, 1), (64, 64)), (4, (2, 2), (330, 400))]
    assert 0 < len(re.findall(r"about \d+ s", told))
    assert re.search(r"up to [\d.]+ MiB of disk, 2\.7 MiB for the result", told)


@pytest.mark.parametrize("task", ["classification", "semantic-segmentation"])
def test_every_kind_of_model_can_be_tried(tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str]):
    image, model = raster(tmp_path / "a.tif", noise(1, 1, 70)), save(tmp_path / "m", task, 1)
    assert main(["predict", str(image), "-m", str(model), "-o", str(tmp_path / "o.tif"), "--dry-run"]) == 0
    assert "2 regions, about 0% without data, 1 windows" in capsys.readouterr().out


def test_a_limit_of_memory_is_kept_or_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    argv = ["predict", "a.tif", "-m", "m", "-o", "o.tif", "--max-memory"]
    assert main([*argv, "300M"]) == 2
    assert "--max-memory 300 MiB cannot be kept: the model at work takes " in capsys.readouterr().err
    assert not list(place.glob("*o.*"))
    budgets: list[int] = []
    plain = engine.Scene.__post_init__

    def noted(scene: Any) -> None:
        budgets.append(scene.budget)
        plain(scene)

    monkeypatch.setattr(engine.Scene, "__post_init__", noted)
    assert main([*argv, "100G"]) == 0
    assert budgets == [predict.BUDGET]
    for wrong in ("2", "G", "0G", "2X", "1e99T", "nanG"):
        assert main([*argv, wrong]) == 2
        assert "is no size such as 2G or 800M" in capsys.readouterr().err


@pytest.mark.parametrize(("limit", "want"), [(1000, 1000 - 300), (2000, 1024)])
def test_what_is_left_of_a_limit_is_for_regions(limit: int, want: int):
    mega = 1 << 20
    trial = Trial(1.0, 1.0, 1.0, 300 * mega)
    assert budget_within(limit * mega + AROUND, trial, mega, 1024 * mega) == want * mega


def test_a_limit_has_room_for_a_region_at_least():
    trial = Trial(1.0, 1.0, 1.0, 300)
    assert budget_within(300 + AROUND + 50, trial, 50, 1024) == 50
    with pytest.raises(ConfigError, match="cannot be kept"):
        budget_within(300 + AROUND + 49, trial, 50, 1024)


def test_an_image_is_not_charged_with_the_one_before(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    limits: list[int] = []

    def within(limit: int, trial: Trial, *sizes: int) -> int:
        limits.append(trial.peak)
        if len(limits) == 1:
            np.ones(600 << 17)  # what the first image takes at its highest
            return budget_within(limit, trial, *sizes)
        raise MemoryLimitError("--max-memory cannot be kept")

    monkeypatch.setattr(predict, "budget_within", within)
    names = ["a.tif", "b.tif", "c.tif"]
    for name in names[1:]:
        raster(place / name, noise(2, 70, 70), nodata=-1)
    assert main(["predict", *names, "-m", "m", "-o", "out/", "--max-memory", "100G"]) == 3
    told = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert told == [f"xt: error: {name}: --max-memory cannot be kept" for name in names[1:]]
    assert len(limits) == 3
    if sys.platform == "linux":
        assert limits[1] < limits[0] + (300 << 20)


def test_a_system_that_does_not_forget_is_no_fault(monkeypatch: pytest.MonkeyPatch):
    def refuse(*given: object, **options: object) -> None:
        raise PermissionError("no /proc here")

    monkeypatch.setattr(Path, "write_text", refuse)
    forget_peak()


def test_a_dry_run_tells_of_a_disk_that_is_too_full(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    argv = ["predict", "a.tif", "-m", "m", "-o", "o.tif", "--dry-run"]
    assert main(argv) == 0
    assert "are free" not in capsys.readouterr().err
    usage = shutil.disk_usage(place)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=3 << 20))
    assert main(argv) == 0
    assert re.search(r"xt: warning: o\.tif needs up to \d+ MiB of disk, 3 MiB are free\n", capsys.readouterr().err)


def test_sizes_are_powers_of_1024():
    from xt.cli.predict import _bytes

    sizes = {"2G": 2 * 2**30, "1.5GiB": 1.5 * 2**30, "800mb": 800 * 2**20, " 3 T ": 3 * 2**40, "9k": 9 * 1024}
    assert {text: _bytes(text) for text in sizes} == {text: int(size) for text, size in sizes.items()}


HUGE = 1e9
"""Seconds of a stage beside which reading is nothing."""


@pytest.mark.parametrize(
    ("stage", "windows", "full"),
    [
        ("encode", 6, 12),  # half of 6 · 2 batches, which full context goes over twice
        ("context", 15, 6),  # half of 5 · 6 windows; rows of regions, since a row is what is tried
        ("decode", 0.5, 0.5),  # half of one piece
    ],
)
@pytest.mark.parametrize("views", ["none", "flips"])
def test_what_has_no_data_costs_nothing_and_full_context_its_own(
    place: Path, stage: str, windows: float, full: float, views: str
):
    model, metadata = load_model(place / "m")
    source, product = Source(place / "a.tif", metadata.inputs), task_of(metadata).product
    plan, asked = predict.plan_of(model, metadata, source, PredictOptions()), Views(model, TURNS[views])
    trial = Trial(**{"encode": 0.0, "context": 0.0, "decode": 0.0, "peak": 0, stage: HUGE})
    one, other = (estimate.estimate(asked, source, product, plan, each, 1 << 30, trial) for each in (False, True))
    times = len(asked.turns)
    assert [each.seconds / HUGE for each in (one, other)] == pytest.approx([times * windows, times * full], abs=1e-3)
    layout = plan.grid.layout(model.region_encoder.strides[-1])
    assert other.memory - one.memory == context_memory(model, layout)
    assert other.disk - one.disk == times * disk_bytes(model, plan)


@pytest.mark.parametrize(("free", "room"), [(80 << 30, 20 << 30), (100 << 20, predict.BUDGET)])
def test_a_gpu_keeps_regions_in_a_quarter_of_its_free_memory_whatever_the_process_may_take(
    place: Path, free: int, room: int, monkeypatch: pytest.MonkeyPatch
):
    model, metadata = load_model(place / "m")
    source, trial = Source(place / "a.tif", metadata.inputs), Trial(1.0, 1.0, 1.0, 2 << 30)
    told = {}
    for kind in ("cpu", "cuda"):
        for module in (predict, estimate):
            monkeypatch.setattr(module, "device_of", lambda model, kind=kind: torch.device(kind))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 << 30))
        plan = predict.plan_of(model, metadata, source, PredictOptions())
        rooms = [predict._budget(model, plan, PredictOptions(max_memory=limit), trial) for limit in (None, 3 << 30)]
        assert rooms == [room if kind == "cuda" else predict.BUDGET] * 2
        with pytest.raises(ConfigError, match="cannot be kept"):
            predict._budget(model, plan, PredictOptions(max_memory=2 << 30), trial)
        product = task_of(metadata).product
        found = estimate.estimate(Views(model), source, product, plan, False, rooms[0], trial)
        told[kind] = found.memory - trial.peak - AROUND
    assert told["cuda"] == 0 < told["cpu"]
