"""Options of Lightning's trainer that touch how xT loads data, keeps its state and ends."""

import itertools
import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, StochasticWeightAveraging, Timer
from small_runs import config, losses

from xt.cli.main import main
from xt.errors import CheckpointError, ConfigError, XTWarning
from xt.models.region.timm_features import TimmFeatures
from xt.training.ending import goes_on, how_it_ended, mark_done, read_done
from xt.training.module import TrainingModule, _warn_of_untaught_norms
from xt.training.trainer_arguments import adapted


def test_the_same_batches_each_epoch_and_a_run_that_is_ended_early(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    seen: list[torch.Tensor] = []
    plain = TrainingModule.training_step
    monkeypatch.setattr(
        TrainingModule, "training_step", lambda self, batch, i: seen.append(batch["image"]) or plain(self, batch, i)
    )
    early = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/aggregate", "min_delta": 9, "patience": 1}}
    trainer = {"accelerator": "cpu", "max_epochs": 3, "enable_progress_bar": False, "overfit_batches": 1}
    argv = ["train", str(config(tmp_path, scenes, trainer=trainer | {"callbacks": [early | {}]}))]
    argv += ["--run_dir", str(tmp_path / "run")]
    assert main(argv) == 0
    assert len(seen) == 2
    assert torch.equal(seen[0], seen[1])
    said = "EarlyStopping ended the run after 2 epochs (2 steps); take it out of trainer.callbacks to go on"
    assert said in capsys.readouterr().out
    assert main(argv) == 0
    assert f"is complete; {said}" in capsys.readouterr().out
    config(tmp_path, scenes, trainer=trainer)
    assert main(argv) == 0
    assert {row[0] for row in losses(tmp_path / "run")[1:] if row[1] == "train/loss"} == {"0", "1", "2"}
    assert "ended the run" not in capsys.readouterr().out


def test_a_trial_leaves_nothing(
    scenes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    for name in ("lightning", "lightning.pytorch"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    argv = [
        "train",
        str(config(tmp_path, scenes)),
        "--run_dir",
        str(tmp_path / "run"),
        "--trainer.fast_dev_run",
        "true",
        "--trainer.profiler",
        "simple",
    ]
    assert main(argv) == 0
    assert "Profiler Report" in caplog.text
    assert [each.name for each in tmp_path.iterdir()] == ["small.yaml"]
    assert "nothing is kept" in capsys.readouterr().out


def test_an_end_without_validation_is_told(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    argv = ["train", str(config(tmp_path, scenes)), "--run_dir", str(tmp_path / "run")]
    assert main([*argv, "--trainer.val_check_interval", "100"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("xt: error: trainer: `val_check_interval` (100) must be less")
    early = '[{"class_path": "EarlyStopping", "init_args": {"monitor": "val/io"}}]'
    assert main([*argv, "--trainer.callbacks", early]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("xt: error: trainer.callbacks: Early stopping conditioned on metric `val/io`")
    assert main([*argv, "--fresh", "--trainer.max_steps", "1"]) == 0
    assert "no validation chose the model: it is that of the last step" in capsys.readouterr().out
    assert main(["eval", str(tmp_path / "run")]) == 0
    assert "run: no validation chose the model" in capsys.readouterr().err
    assert main(["info", str(tmp_path / "run")]) == 0
    assert "no validation chose the model" in capsys.readouterr().out


def test_weights_of_another_type_are_refused_where_objects_come_with_the_images(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    argv = ["train", str(config(tmp_path, scenes)), "--run_dir", str(tmp_path / "run")]
    assert main([*argv, "--trainer.precision", "bf16-true"]) == 2
    assert "trainer.precision bf16-true: objects come beside the images" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_last_epoch_is_validated_too(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    trainer = {"accelerator": "cpu", "max_epochs": 3, "check_val_every_n_epoch": 2, "limit_train_batches": 1}
    argv = ["train", str(config(tmp_path, scenes, trainer=trainer | {"enable_progress_bar": False}))]
    assert main([*argv, "--run_dir", str(tmp_path / "run")]) == 0
    assert [row[0] for row in losses(tmp_path / "run") if row[1] == "val/aggregate"] == ["1", "2"]
    assert "no validation" not in capsys.readouterr().out
    assert main([*argv, "--run_dir", str(tmp_path / "none"), "--trainer.limit_val_batches", "0"]) == 0
    assert "no validation chose the model" in capsys.readouterr().out
    steps = ["--trainer.max_epochs", "-1", "--trainer.max_steps", "3"]
    assert main([*argv, "--run_dir", str(tmp_path / "steps"), *steps]) == 0
    assert [row[0] for row in losses(tmp_path / "steps") if row[1] == "val/aggregate"] == ["1", "2"]


def test_what_the_clock_ends_is_saved_before(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    trainer = {"accelerator": "cpu", "max_epochs": 9, "enable_progress_bar": False, "limit_train_batches": 1}
    trainer |= {"max_time": "00:01:00:00", "check_val_every_n_epoch": 9}
    argv = ["train", str(config(tmp_path, scenes, trainer=trainer)), "--run_dir", str(tmp_path / "run")]
    clock, steps = {"left": 3600.0, "elapsed": 0.0}, itertools.count(1)
    plain = TrainingModule.training_step

    def step(*given: Any) -> torch.Tensor:
        number = next(steps)
        if number == 3:
            clock["left"] = 1e-9
        if number == 4:
            clock.update(left=-1.0, elapsed=3600.0)
        return plain(*given)

    monkeypatch.setattr(Timer, "time_remaining", lambda self, stage="": clock["left"])
    monkeypatch.setattr(Timer, "time_elapsed", lambda self, stage="": clock["elapsed"])
    monkeypatch.setattr(TrainingModule, "training_step", step)
    assert main(argv) == 0
    assert "ended the run after 4 epochs (4 steps)" in capsys.readouterr().out
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 3
    clock.update(left=3600.0, elapsed=0.0)
    assert main(argv) == 0
    assert "going on" in capsys.readouterr().out
    assert [row[0] for row in losses(tmp_path / "run") if row[1] == "train/loss"] == [*"012345678"]


@pytest.mark.parametrize("name", ["LearningRateFinder", "BatchSizeFinder", "OnExceptionCheckpoint"])
def test_callbacks_that_would_spoil_a_run_are_refused(
    scenes: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
):
    given = json.dumps([{"class_path": name} | ({"init_args": {"dirpath": "x"}} if "Except" in name else {})])
    argv = ["train", str(config(tmp_path, scenes)), "--run_dir", str(tmp_path / "run"), "--trainer.callbacks", given]
    assert main(argv) == 2
    told = capsys.readouterr().err
    assert f"trainer.callbacks: {name} " in told
    assert told.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_what_is_not_installed_or_not_given_is_told(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    argv = ["train", str(config(tmp_path, scenes)), "--run_dir", str(tmp_path / "run")]
    assert main([*argv, "--model.init_parts", "[context]"]) == 2
    assert "model.init_parts: says what is taken of model.init_from, which is not given" in capsys.readouterr().err
    for key in ("optimizer", "lr_scheduler"):
        assert main([*argv, f"--{key}", "SGD"]) == 2
        assert f"{key} cannot be chosen: it is AdamW" in capsys.readouterr().err

    def missing(*given: Any) -> None:
        raise ModuleNotFoundError("DeviceStatsMonitor needs psutil")

    monkeypatch.setattr(TrainingModule, "configure_optimizers", missing)
    assert main(argv) == 2
    assert "xt: error: trainer: DeviceStatsMonitor needs psutil; install it\n" in capsys.readouterr().err


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_of_it(scenes: Path, tmp_path: Path):
    script = tmp_path / "script.py"
    options = ["--run_dir", str(tmp_path / "run"), "--data.num_workers", "1"]
    script.write_text(f"import xt\nxt.train({str(config(tmp_path, scenes))!r}, {options})\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    lines = done.stderr.splitlines()
    assert "xt: a loader process has come to xt.train: put the call under if __name__ == '__main__':" in lines
    assert lines[-1].startswith("xt.errors.TrainingError: a loader process has ended; its message stands above")


def ended(tmp_path: Path, *callbacks: Any, validated: bool = True, **facts: Any) -> dict[str, Any]:
    values = {"should_stop": True, "global_step": 5, "current_epoch": 2, "max_epochs": 9, "max_steps": -1} | facts
    trainer: Any = SimpleNamespace(**values, callbacks=[*callbacks])
    mark_done(tmp_path, trainer, validated)
    found: dict[str, Any] = json.loads((tmp_path / "done").read_text())
    return found


def test_who_ended_a_run(tmp_path: Path):
    early, timer = EarlyStopping("x"), Timer("00:00:00:01")
    timer._start_time, timer._end_time = {"train": 1.0}, {"train": 3.0}  # type: ignore[assignment]
    for callbacks, facts, who in (
        ([early], {}, "EarlyStopping"),
        ([early], {"current_epoch": 9}, None),
        ([early], {"should_stop": False}, None),
        ([early], {"max_steps": 5}, None),
        ([early, timer], {}, "Timer"),
        ([], {}, "a callback"),
    ):
        found = ended(tmp_path, *callbacks, **facts)
        assert found["stopped_by"] == who
        assert bool(how_it_ended(found)) == (who is not None)
        for now, more in (([early, timer], who == "Timer"), ([], who in ("Timer", "EarlyStopping"))):
            trainer: Any = SimpleNamespace(max_epochs=9, max_steps=facts.get("max_steps", -1), callbacks=now)
            assert goes_on(found, trainer) == more


def test_what_is_told_of_an_end(tmp_path: Path):
    early, timer = EarlyStopping("x"), Timer("00:00:00:09")
    timer._start_time, timer._end_time = {"train": 1.0}, {"train": 3.0}  # type: ignore[assignment]
    assert how_it_ended(ended(tmp_path, timer, early, validated=False)) == [
        "EarlyStopping ended the run after 2 epochs (5 steps); take it out of trainer.callbacks to go on",
        "no validation chose the model: it is that of the last step",
    ]
    timer._end_time = {"train": 10.0}  # type: ignore[assignment]
    said = "Timer ended the run after 2 epochs (5 steps); raise --trainer.max_time to go on"
    assert how_it_ended(ended(tmp_path, early, timer)) == [said]
    assert how_it_ended({"max_epochs": 3, "max_steps": -1}) == []  # of an older version


@pytest.mark.parametrize("text", ["{", "[]", '{"steps": 5, "max_epochs": 3}'])
def test_a_mark_that_cannot_be_read_is_told(tmp_path: Path, text: str):
    assert read_done(tmp_path) is None
    (tmp_path / "done").write_text(text)
    with pytest.raises(CheckpointError, match="done cannot be read; train anew with --fresh"):
        read_done(tmp_path)


def test_what_cannot_be_had_is_refused():
    data: Any = SimpleNamespace(same_batches=False)
    with pytest.raises(ConfigError, match="StochasticWeightAveraging averages after the last validation"):
        adapted({"callbacks": StochasticWeightAveraging(0.1)}, data)
    with pytest.raises(ConfigError, match=r"trainer\.barebones"):
        adapted({"barebones": True}, data)
    with pytest.raises(ConfigError, match="limit_train_batches is 0"):
        adapted({"limit_train_batches": 0}, data)
    assert adapted({"use_distributed_sampler": True}, data) == {"use_distributed_sampler": False}
    assert not data.same_batches
    limits = {"overfit_batches": 0.0, "limit_train_batches": 3, "limit_val_batches": 3}
    assert adapted({"overfit_batches": 3}, data) == {"use_distributed_sampler": False} | limits
    assert data.same_batches


def test_batch_norm_that_nothing_taught_is_told(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    argv = ["train", str(config(tmp_path, scenes)), "--run_dir", str(tmp_path / "run"), "--trainer.max_steps", "1"]
    part = "--model.model.region_encoder.init_args"
    assert (
        main([*argv, f"{part}.name", "lcnet_035", f"{part}.model_args", "{}", "--trainer.limit_val_batches", "0"]) == 0
    )
    assert "xt: warning: model.model.region_encoder: its 27 layers of batch norm" in capsys.readouterr().err
    encoder = TimmFeatures(3, "lcnet_035", 64)
    with pytest.warns(XTWarning, match="its 27 layers of batch normalisation keep the statistics that they start with"):
        _warn_of_untaught_norms(encoder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _warn_of_untaught_norms(TimmFeatures(3, "convnext_atto", 64, model_args={"dims": [8, 8, 8, 8]}))
        for name, buffer in encoder.named_buffers():
            if name.endswith("running_var"):
                buffer.mul_(2)
        _warn_of_untaught_norms(encoder)
