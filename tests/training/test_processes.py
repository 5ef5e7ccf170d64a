"""Data-parallel training: two processes learn what one learns with batches twice as large."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import yaml

from xt.cli.main import main
from xt.models.checkpoint import load_model
from xt.training.processes import alone

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os, signal, sys
from xt.cli.main import main
from xt.training.module import TrainingModule

at, who, by = map(int, os.environ["SIGNAL"].split())
plain = TrainingModule.training_step

def step(self, batch, index):
    if self.global_step == at and self.global_rank == who:
        os.kill(os.getpid(), by)
    return plain(self, batch, index)

TrainingModule.training_step = step
if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    assert main(["synth", "xview3", str(folder / "data"), "--scenes", "6", "--size", "300", "--seed", "2"]) == 0
    for path in sorted((folder / "data/train").iterdir())[0].glob("*_dB.tif"):
        with rasterio.open(path, "r+") as dataset:
            dataset.write(np.full((1, 300, 300), -32768, np.float32))  # a process gets images without data
    encoder = {"name": "convnext_atto", "region_size": 64,
               "model_args": {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "drop_path_rate": 0.0}}  # fmt: skip
    values = {
        "seed_everything": 1,
        "trainer": {"accelerator": "cpu", "max_epochs": 2, "enable_progress_bar": False},
        "checkpoint_every": 2,
        "model": {
            "task": "PointDetection", "lr": 0.001, "warmup_steps": 2,
            "model": {
                "region_encoder": {"class_path": "TimmFeatures", "init_args": encoder},
                "context": {"class_path": "Mamba", "init_args": {"depth": 1}},
                "context_dim": 16,
                "decoder": {"class_path": "UNet", "init_args": {"filters": [8, 8, 8], "out_stride": 4}},
            },
        },
        "data": {
            "class_path": "XView3Data",
            "init_args": {"root": str(folder / "data"), "image_size": 128, "crops_per_scene": 2, "seed": 2, "batch_size": 2},
        },
    }  # fmt: skip
    (folder / "c.yaml").write_text(yaml.safe_dump(values))
    (folder / "script.py").write_text(SCRIPT)
    return folder / "c.yaml"


def train(config: Path, run: Path, *options: str, at: int = -1, who: int = 0, by: int = 0) -> tuple[int, str]:
    """Train in two processes; at step ``at`` one of them gets a signal."""
    argv = [sys.executable, "script.py", str(config), "--run_dir", str(run)]
    argv += ["--data.batch_size", "1", "--trainer.devices", "2", *options]
    environment = os.environ | {
        "SIGNAL": f"{at} {who} {by}",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
    }
    child = subprocess.Popen(
        argv, cwd=config.parent, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    _, error = child.communicate(timeout=300)
    return child.returncode, error


@pytest.fixture(scope="module")
def pair(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("pair") / "run"
    assert train(config, run) == (0, "")
    return run


def logged(run: Path) -> dict[tuple[str, str], float]:
    with (run / "metrics.csv").open() as file:
        return {(row["step"], row["name"]): float(row["value"]) for row in csv.DictReader(file)}


def test_two_processes_learn_what_one_learns(config: Path, pair: Path, tmp_path: Path):
    assert main(["train", str(config), "--run_dir", str(tmp_path / "run")]) == 0
    one, two = logged(tmp_path / "run"), logged(pair)
    assert len({step for step, name in one if name == "train/loss"}) == 8
    assert one == pytest.approx(two, rel=1e-5, abs=1e-6)
    ours, theirs = (load_model(run)[0].state_dict() for run in (pair, tmp_path / "run"))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_signal_to_one_stops_both_and_they_go_on_exactly(config: Path, pair: Path, tmp_path: Path):
    run = tmp_path / "run"
    code, error = train(config, run, at=3, who=0, by=signal.SIGTERM)
    assert code == 128 + signal.SIGTERM, error
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    assert not (run / "done").exists()
    assert train(config, run) == (0, "")
    assert logged(run) == logged(pair)
    ours, theirs = (load_model(each)[0].state_dict() for each in (run, pair))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


@pytest.mark.slow
def test_a_process_that_dies_ends_the_other_and_the_state_stays(config: Path, tmp_path: Path):
    run = tmp_path / "run"
    code, error = train(config, run, at=3, who=1, by=signal.SIGKILL)
    assert code not in (0, None)
    assert "another process of this training has ended (process 1, by SIGKILL); where no message" in error
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3


def test_scores_are_measured_by_one_process_and_said_once(pair: Path):
    def evaluate(*options: str) -> tuple[int, str, str]:
        argv = [sys.executable, "-m", "xt.cli.main", "eval", str(pair), "--json", *options]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=300)
        return ended.returncode, ended.stdout, ended.stderr

    code, alone, error = evaluate()
    assert (code, error) == (0, "")
    code, both, error = evaluate("--trainer.devices", "2")
    assert code == 0, error
    assert json.loads(both) == pytest.approx(json.loads(alone), rel=1e-5)
    assert "val/loc_fscore" in json.loads(both)


@pytest.mark.parametrize(
    ("devices", "one"),
    [(None, "1"), (2, "1"), ("auto", "1"), ([3, 1], "[3]"), ("2,3", "[2]"), ("5,", "[5]"), (-1, "1")],
)
def test_one_process_takes_the_first_device_of_the_run(devices: Any, one: str, tmp_path: Path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"trainer": {"devices": devices}} if devices else {"data": 1}))
    assert alone(tmp_path / "c.yaml") == [
        f"--trainer.devices={one}",
        "--trainer.num_nodes=1",
        "--trainer.strategy=auto",
    ]


def test_several_runs_are_measured_by_one_process_each(pair: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["eval", str(pair), str(pair), "--trainer.devices=2"]) == 2
    assert "--trainer.devices: several processes measure one run at a time; give one run" in capsys.readouterr().err


def test_what_shards_the_model_is_refused(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    argv = ["train", str(config), "--run_dir", str(tmp_path / "run"), "--trainer.strategy", "ddp_spawn"]
    assert main([*argv, "--trainer.devices", "2", "--trainer.strategy", "fsdp"]) == 2
    assert "trainer" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
