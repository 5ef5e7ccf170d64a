"""What training measures, and what it draws for a step."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from xt.cli.main import main
from xt.data.labels import LabelTable
from xt.models.context.identity import Identity
from xt.models.decoders.unet import UNet
from xt.models.factory import ModelConfig
from xt.models.region.timm_features import TimmFeatures
from xt.stopping import StopRequest
from xt.tasks import detection
from xt.tasks.detection import PointDetection
from xt.training import run_folder
from xt.training.run_folder import RunFolder

ENCODER = {"name": "convnext_atto", "region_size": 64,
           "model_args": {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}}  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Path:
    assert main(["synth", "xview3", str(tmp_path / "data"), "--scenes", "3", "--size", "130"]) == 0
    parts = {
        "region_encoder": {"class_path": "TimmFeatures", "init_args": ENCODER},
        "context": {"class_path": "Identity"},
        "context_dim": 16,
        "decoder": {"class_path": "UNet", "init_args": {"filters": [8, 8, 8], "out_stride": 4}},
    }
    values = {
        "seed_everything": 1,
        "trainer": {"accelerator": "cpu", "max_epochs": 3, "enable_progress_bar": False},
        "model": {"task": "PointDetection", "model": parts},
        "data": {"class_path": "XView3Data", "init_args": {"root": str(tmp_path / "data"), "image_size": 64}},
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_first_score_that_is_no_number_does_not_stay_the_best(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    scores = iter([float("nan"), 0.25, 0.5])
    plain, saved = run_folder.save_model, []
    monkeypatch.setattr(PointDetection, "scores", lambda self, data, tune: {"aggregate": next(scores)})
    monkeypatch.setattr(run_folder, "save_model", lambda *given: saved.append(given[0].name) or plain(*given))
    assert main(["train", str(config), "--run_dir", str(tmp_path / "run")]) == 0
    assert saved == ["model", "model"]


def test_evaluation_decides_with_the_thresholds_of_the_model(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = tmp_path / "run"
    assert main(["train", str(config), "--run_dir", str(run), "--trainer.max_epochs", "1"]) == 0
    path = run / "model" / "config.json"
    values = json.loads(path.read_text())
    values["metadata"]["thresholds"] |= {"center": 123.0}
    path.write_text(json.dumps(values))
    decided: list[float] = []
    monkeypatch.setattr(detection.points, "tune", lambda *given: pytest.fail("tuned on the data that is measured"))
    plain = detection.Candidates.decide
    monkeypatch.setattr(
        detection.Candidates, "decide", lambda self, chosen: decided.append(chosen.center) or plain(self, chosen)
    )
    for split in ("validation", "test"):
        assert main(["eval", str(run), "--split", split]) == 0
    assert decided == [123.0, 123.0]


def test_what_has_no_data_holds_no_candidate(monkeypatch: pytest.MonkeyPatch):
    model = ModelConfig(
        lambda in_chans: TimmFeatures(in_chans, "convnext_atto", 64, model_args=ENCODER["model_args"]), Identity,
        lambda inputs: UNet(inputs, [8, 8, 8], 4), 16,
    ).build(2, PointDetection().heads)  # fmt: skip
    task = PointDetection()
    task.center_activation = "linear"
    maps = {name: torch.zeros(1, 1, 64, 64) for name in ("center", "vessel", "fishing", "length")}
    maps["center"][..., 10:13, 10:13] = maps["center"][..., 40:43, 40:43] = 0.9
    monkeypatch.setattr(model, "forward", lambda image, valid: maps)
    valid = torch.ones(1, 1, 64, 64, dtype=torch.bool)
    valid[..., 30:, :] = False
    batch: dict[str, Any] = {"image": torch.zeros(1, 2, 64, 64), "valid": valid, "name": ["a"], "scene_id": ["s"],
                             "origin": [(100, 0)], "points": [LabelTable.build(0)]}  # fmt: skip
    task.measure(model, batch)
    (found,) = task._found
    np.testing.assert_allclose(found.table.row, [111], atol=1e-6)


def test_each_part_of_an_accumulated_step_draws_its_own_numbers(tmp_path: Path):
    seen = []
    for accumulate, step, index in [(1, 3, 0), (1, 4, 1), (2, 3, 0), (2, 3, 1), (2, 30, 0), (2, 30, 1)]:
        progress = SimpleNamespace(total=SimpleNamespace(ready=0, completed=0))
        loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
        processes = {"world_size": 1, "global_rank": 0, "callbacks": [], "datamodule": SimpleNamespace(skip_batches=0)}
        trainer = SimpleNamespace(global_step=step, accumulate_grad_batches=accumulate, fit_loop=loop, **processes)
        callback = RunFolder(tmp_path, 1, 10**6, StopRequest())
        callback._saved_at = step
        callback.on_train_batch_start(trainer, None, None, index)
        seen.append(float(torch.rand(())))
    assert seen[0] == seen[2]
    assert len(set(seen)) == 5
