"""Runs that are killed, stopped, damaged or finished, and go on."""

import shutil
import signal
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import config, losses, run_train

from xt.cli.main import main
from xt.data.base import DataModule
from xt.errors import CheckpointError, ConfigError
from xt.models.checkpoint import load_model
from xt.training.binding import BOUND_TRAINER, check_same
from xt.training.checkpoints import find_checkpoint
from xt.training.ending import goes_on, read_done


@pytest.mark.slow
def test_same_seed_same_losses(unbroken: Path, scenes: Path, tmp_path: Path):
    assert main(["train", str(config(tmp_path, scenes)), "--run_dir", str(tmp_path / "run")]) == 0
    assert losses(tmp_path / "run") == losses(unbroken)


@pytest.mark.parametrize("kill_at", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 1, 7))])
def test_killed_run_goes_on_exactly(unbroken: Path, scenes: Path, tmp_path: Path, kill_at: int):
    argv = [str(config(tmp_path, scenes)), "--run_dir", str(tmp_path / "run")]
    assert run_train(*argv, kill_at=kill_at) == 9
    assert not (tmp_path / "run" / "done").exists()
    assert main(["train", *argv]) == 0
    assert losses(tmp_path / "run") == losses(unbroken)
    ours, theirs = (load_model(run)[0].state_dict() for run in (tmp_path / "run", unbroken))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_run_with_loader_processes_goes_on_exactly(unbroken: Path, scenes: Path, tmp_path: Path):
    argv = [str(config(tmp_path, scenes)), "--run_dir", str(tmp_path / "run"), "--data.num_workers", "1"]
    assert run_train(*argv, kill_at=6) == 9
    assert main(["train", *argv]) == 0
    assert losses(tmp_path / "run") == losses(unbroken)


@pytest.mark.parametrize(
    "trainer",
    [
        {"reload_dataloaders_every_n_epochs": 1, "max_epochs": 2},
        {"check_val_every_n_epoch": None, "val_check_interval": 2, "max_epochs": -1, "max_steps": 5},
    ],
    ids=["reload", "interval"],
)
def test_loaders_that_are_made_anew_and_validation_by_steps_go_on_exactly(
    scenes: Path, tmp_path: Path, trainer: dict[str, object]
):
    path = config(tmp_path, scenes, trainer={"accelerator": "cpu", "enable_progress_bar": False} | trainer)
    argv = [str(path), "--run_dir"]
    assert main(["train", *argv, str(tmp_path / "whole")]) == 0
    assert run_train(*argv, str(tmp_path / "cut"), kill_at=2) == 9
    assert main(["train", *argv, str(tmp_path / "cut")]) == 0
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_sparse_checkpoints_go_on_exactly_too(unbroken: Path, scenes: Path, tmp_path: Path):
    argv = [str(config(tmp_path, scenes)), "--run_dir", str(tmp_path / "run"), "--checkpoint_every", "3"]
    assert run_train(*argv, kill_at=5) == 9
    assert main(["train", *argv]) == 0
    assert losses(tmp_path / "run") == losses(unbroken)


def test_damaged_checkpoint_falls_back_to_the_one_before(unbroken: Path, tmp_path: Path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("last.ckpt", "previous.ckpt"):
        (folder / name).write_bytes((unbroken / "checkpoints" / name).read_bytes())
        sidecar = f"{name}.sha256"
        (folder / sidecar).write_bytes((unbroken / "checkpoints" / sidecar).read_bytes())
    data = bytearray((folder / "last.ckpt").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "last.ckpt").write_bytes(data)
    path, note = find_checkpoint(tmp_path)
    assert path == folder / "previous.ckpt"
    assert "last.ckpt is damaged" in note
    (folder / "previous.ckpt").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint is whole"):
        find_checkpoint(tmp_path)


def test_complete_run_is_left_alone_and_another_config_is_refused(
    unbroken: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = config(tmp_path, scenes)
    before = (unbroken / "metrics.csv").stat().st_mtime_ns
    assert main(["train", str(path), "--run_dir", str(unbroken)]) == 0
    assert "is complete" in capsys.readouterr().out
    assert main(["train", str(path), "--run_dir", str(unbroken), "--model.lr", "0.5"]) == 2
    assert "another model.lr" in capsys.readouterr().err
    assert (unbroken / "metrics.csv").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("by", "stage", "kill_at", "options"),
    [
        (signal.SIGINT, "training", 4, ["--checkpoint_every", "50"]),
        pytest.param(
            signal.SIGINT,
            "training",
            4,
            ["--checkpoint_every", "50", "--data.num_workers", "1"],
            marks=pytest.mark.slow,
        ),
        pytest.param(signal.SIGTERM, "training", 5, ["--checkpoint_every", "50"], marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "validation", 4, ["--checkpoint_every", "50"], marks=pytest.mark.slow),
    ],
)
def test_signals_stop_at_a_boundary_and_the_run_goes_on_exactly(
    unbroken: Path, scenes: Path, tmp_path: Path, by: int, stage: str, kill_at: int, options: list[str]
):
    argv = [str(config(tmp_path, scenes)), "--run_dir", str(tmp_path / "run")]
    assert run_train(*argv, *options, kill_at=kill_at, by=by, stage=stage) == 128 + by
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == (kill_at + 1 if stage == "training" else kill_at - 1)
    assert not (tmp_path / "run" / "done").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "small.yaml"]
    assert main(["train", *argv]) == 0
    assert losses(tmp_path / "run") == losses(unbroken)
    ours, theirs = (load_model(run)[0].state_dict() for run in (tmp_path / "run", unbroken))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_finished_run_goes_on_when_its_end_is_moved(
    unbroken: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    argv = ["train", str(config(tmp_path, scenes)), "--run_dir", str(run)]
    assert main([*argv, "--trainer.max_epochs", "1"]) == 0
    assert "raise --trainer.max_epochs" in capsys.readouterr().out
    assert losses(run) == losses(unbroken)
    for name in ("last.ckpt.0123456789abcdef.partial.ckpt", "last.ckpt.sha256.0123456789abcdef.partial.sha256"):
        (run / "checkpoints" / f".{name}").write_text("of a kill")
    assert main([*argv, "--trainer.max_epochs", "3"]) == 0
    assert "going on from" in capsys.readouterr().out
    assert not list((run / "checkpoints").glob(".*"))
    end = max(int(row[0]) for row in losses(unbroken)[1:])
    before = [[row for row in losses(each)[1:] if int(row[0]) < end] for each in (run, unbroken)]
    assert before[0] == before[1]
    steps = [int(row[0]) for row in losses(run)[1:] if row[1] == "train/loss"]
    assert steps == list(range((end + 1) * 3 // 2))
    assert main([*argv, "--trainer.max_epochs", "3"]) == 0
    assert "is complete" in capsys.readouterr().out


def test_statistics_are_those_the_run_began_with(tmp_path: Path):
    def images(value: int) -> None:
        for name in ("a", "v"):
            pixels = np.random.default_rng(0).integers(value, 2 * value, (64, 64), dtype=np.uint8)
            for kind, array in (("images", pixels), ("masks", pixels % 2)):
                (tmp_path / kind).mkdir(exist_ok=True)
                Image.fromarray(array).save(tmp_path / kind / f"{name}.png")

    images(20)
    data = {"root": str(tmp_path), "validation": "v", "image_size": 64, "bands": ["grey"], "classes": ["no", "yes"]}
    path = config(tmp_path, tmp_path, data={"class_path": "RasterPairsData", "init_args": data})
    argv = ["train", str(path), "--run_dir", str(tmp_path / "run"), "--model.task", "SemanticSegmentation"]
    assert main([*argv, "--trainer.max_epochs", "2"]) == 0
    _, before = load_model(tmp_path / "run")
    images(100)
    assert main([*argv, "--trainer.max_epochs", "4"]) == 0
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] > 1
    assert 25 < before.mean[0] < 35
    assert saved["RasterPairsData"]["mean"] == list(before.mean)
    assert saved["RasterPairsData"]["std"] == list(before.std)


def test_a_run_without_a_step_binds_nothing_and_leaves_nothing(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    argv = ["train", str(config(tmp_path, tmp_path / "nowhere")), "--run_dir", str(tmp_path / "run")]
    assert main(argv) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.yaml"]
    assert main([*argv, "--data.root", str(scenes), "--trainer.max_steps", "1"]) == 0


def test_where_data_lie_and_how_work_is_cut_do_not_bind(
    unbroken: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    argv = ["train", str(config(tmp_path, scenes)), "--run_dir", str(unbroken)]
    free = ["--data.root", "/elsewhere", "--data.num_workers", "2", "--model.model.region_batch", "2"]
    free += [
        "--model.model.region_encoder.init_args.compile",
        "true",
        "--model.model.decode_size",
        "64",
        "--model.model.streaming",
        "false",
        "--trainer.accelerator",
        "auto",
    ]
    assert main([*argv, *free]) == 0
    assert "is complete" in capsys.readouterr().out
    for bound in (["--data.image_size", "64"], ["--trainer.gradient_clip_val", "1"], ["--seed_everything", "5"]):
        assert main([*argv, *bound]) == 2
        assert f"was trained with another {bound[0][2:6]}" in capsys.readouterr().err


def test_keys_of_the_trainer_that_change_a_step_bind(tmp_path: Path):
    keys = {
        "accumulate_grad_batches", "devices", "gradient_clip_algorithm", "gradient_clip_val", "limit_train_batches",
        "num_nodes", "overfit_batches",
    }  # fmt: skip
    assert set(BOUND_TRAINER) == keys
    for key in keys:
        with pytest.raises(ConfigError, match=rf"was trained with another trainer\.{key} \(1, now 2\)"):
            check_same(tmp_path, {"trainer": {key: 1}}, {"trainer": {key: 2}}, DataModule)
    check_same(tmp_path, {"trainer": {"max_epochs": 1}}, {"trainer": None}, DataModule)


@pytest.mark.parametrize(
    ("epochs", "steps", "complete"),
    [(3, -1, True), (3, 90, True), (4, -1, False), (2, -1, True), (0, -1, True), (-1, -1, False), (None, -1, False)],
)
def test_a_run_is_complete_until_its_end_is_moved(tmp_path: Path, epochs: int | None, steps: int, complete: bool):
    (tmp_path / "done").write_text('{"steps": 30, "max_epochs": 3, "max_steps": -1}')
    facts = read_done(tmp_path)
    assert facts is not None
    now = SimpleNamespace(max_epochs=epochs, max_steps=steps, callbacks=[])
    assert goes_on(facts, now) == (not complete)  # type: ignore[arg-type]


def test_damaged_checkpoints_are_never_trained_over(
    unbroken: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    (run / "done").unlink()
    for path in (run / "checkpoints").glob("*.ckpt"):
        path.write_bytes(b"spoilt")
    assert main(["train", str(config(tmp_path, scenes)), "--run_dir", str(run)]) == 2
    assert "--fresh" in capsys.readouterr().err
    assert losses(run) == losses(unbroken)


def test_a_run_goes_on_when_a_class_has_got_an_option_since(tmp_path: Path):
    """The config that it was trained with names all options that there were."""
    of_class = {"class_path": "xt.tasks.segmentation.SemanticSegmentation", "init_args": {}}
    old = {"model": {"task": of_class}}
    for value, same in ((True, True), (False, False)):
        new = {"model": {"task": of_class | {"init_args": {"background": value}}}}
        with (
            nullcontext() if same else pytest.raises(ConfigError, match=r"model.task.init_args.background \(True, now")
        ):
            check_same(tmp_path, old, new, DataModule)
    with pytest.raises(ConfigError, match=r"init_args.unheard \(None, now 1\)"):
        check_same(tmp_path, old, {"model": {"task": of_class | {"init_args": {"unheard": 1}}}}, DataModule)
    with pytest.raises(ConfigError, match=r"init_args.background \(False, now None\)"):
        check_same(tmp_path, new, old, DataModule)
    of_class = {"class_path": "xt.models.decoders.upernet.UPerNet", "init_args": {}}
    old = {"model": {"decoder": of_class}}
    check_same(tmp_path, old, {"model": {"decoder": of_class | {"init_args": {"pools": [1, 2, 3, 6]}}}}, DataModule)
    with pytest.raises(ConfigError, match=r"init_args.inputs \(None, now 1\)"):
        check_same(tmp_path, old, {"model": {"decoder": of_class | {"init_args": {"inputs": 1}}}}, DataModule)


def test_comparing_configs_changes_none(tmp_path: Path):
    old, new = ({"model": {"model": {"streaming": value, "decode_size": 64}}} for value in (True, False))
    before = deepcopy([old, new])
    check_same(tmp_path, old, new, DataModule)
    assert [old, new] == before
