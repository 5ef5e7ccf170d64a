"""Averaged weights: those that are validated are those that are kept, and a run that was cut off goes on exactly."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import config, losses, run_train
from torch import Tensor

from xt.cli.main import main
from xt.models.checkpoint import load_model
from xt.training.module import TrainingModule
from xt.training.ownership import check_own

AVERAGING = {"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.5}}
OTHERS = [
    {"class_path": "LearningRateMonitor"},
    {"class_path": "ModelCheckpoint", "init_args": {"monitor": "val/aggregate", "mode": "max"}},
]
TRAINER = {"accelerator": "cpu", "max_epochs": 2, "enable_progress_bar": False, "callbacks": [AVERAGING, *OTHERS]}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in other)


def test_the_weights_that_were_validated_are_kept_and_the_run_goes_on_exactly(
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
):
    validated: list[dict[str, Tensor]] = []
    plain = TrainingModule.validation_step

    def step(self: TrainingModule, batch: dict[str, Any], index: int) -> Any:
        validated.append({key: value.clone() for key, value in self.model.state_dict().items()})
        return plain(self, batch, index)

    monkeypatch.setattr(TrainingModule, "validation_step", step)
    argv = [str(config(tmp_path, scenes, trainer=TRAINER)), "--run_dir"]
    assert main(["train", *argv, str(tmp_path / "whole")]) == 0
    kept = load_model(tmp_path / "whole")[0].state_dict()
    assert any(same(kept, each) for each in validated)

    assert run_train(*argv, str(tmp_path / "cut"), kill_at=3) == 9
    assert main(["train", *argv, str(tmp_path / "cut")]) == 0
    assert not [each for each in recwarn if "resum" in str(each.message)]
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert ("0", "lr-AdamW/pg1", "0.0003333333333333333") in losses(tmp_path / "cut")
    assert len(list((tmp_path / "cut/own_checkpoints").glob("*.ckpt"))) == 1
    check_own(tmp_path / "cut", clear=True, keep=[])
    assert same(load_model(tmp_path / "cut")[0].state_dict(), kept)

    capsys.readouterr()
    other = config(tmp_path, scenes, trainer=TRAINER | {"callbacks": OTHERS, "max_epochs": 3})
    assert main(["train", str(other), "--run_dir", str(tmp_path / "cut")]) == 2
    assert "was trained with averaged weights, now without" in capsys.readouterr().err


def test_what_does_not_learn_is_not_averaged_and_must_not_be_all(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    argv = ["train", str(config(tmp_path, scenes, trainer=TRAINER | {"max_epochs": 1, "callbacks": []})), "--run_dir"]
    assert main([*argv, str(tmp_path / "first")]) == 0
    rounding = '[{"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.9}}]'
    some = ["--model.init_from", str(tmp_path / "first"), "--model.train_parts", "[decoder,heads]"]
    assert main([*argv, str(tmp_path / "second"), *some, "--trainer.callbacks", rounding]) == 0
    before, after = (load_model(tmp_path / run)[0] for run in ("first", "second"))
    for part, kept in (("region_encoder", True), ("context", True), ("decoder", False), ("heads", False)):
        assert same(*(getattr(each, part).state_dict() for each in (before, after))) == kept, part
    capsys.readouterr()
    assert main([*argv, str(tmp_path / "none"), "--model.train_parts", "[]"]) == 2
    assert "model.train_parts is []: nothing learns; name parts with weights" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
