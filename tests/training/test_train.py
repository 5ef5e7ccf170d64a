"""The real ``xt train`` on small made-up data."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from xt.cli.main import main
from xt.errors import CheckpointError
from xt.models.checkpoint import load_model
from xt.training.checkpoints import find_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes") / "data"
    assert main(["synth", "xview3", str(out), "--scenes", "4", "--size", "300", "--seed", "2"]) == 0
    return out


def config(folder: Path, scenes: Path, **changes: object) -> Path:
    encoder = {
        "name": "convnext_atto",
        "in_chans": 2,
        "region_size": 64,
        "model_args": {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "drop_path_rate": 0.2},
    }
    values = {
        "seed_everything": 1,
        "trainer": {"accelerator": "cpu", "max_epochs": 2, "enable_progress_bar": False},
        "checkpoint_every": 1,
        "model": {
            "class_path": "PointDetection",
            "init_args": {
                "lr": 0.001,
                "warmup_steps": 2,
                "model": {
                    "region_encoder": {"class_path": "TimmFeatures", "init_args": encoder},
                    "context": {"class_path": "Mamba", "init_args": {"depth": 1}},
                    "context_dim": 16,
                    "decoder": {"class_path": "UNet", "init_args": {"filters": [8, 8, 8], "out_stride": 4}},
                },
            },
        },
        "data": {
            "class_path": "XView3Data",
            "init_args": {"root": str(scenes), "image_size": 128, "crops_per_scene": 2},
        },
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return path


def losses(run: Path) -> list[tuple[str, ...]]:
    with (run / "metrics.csv").open() as file:
        return [tuple(row) for row in csv.reader(file)]


def run_train(*argv: str, kill_at: int | None = None) -> int:
    """Run ``xt train`` in a process of its own; ``kill_at`` kills it, without a word, before that step's update."""
    code = (
        "import os, sys\nfrom xt.training.task import TrainingTask\n"
        "kill_at = int(sys.argv[1])\nplain = TrainingTask.training_step\n"
        "def step(self, batch, index):\n"
        "    if self.global_step == kill_at: os._exit(9)\n"
        "    return plain(self, batch, index)\n"
        "TrainingTask.training_step = step\n"
        "from xt.cli.main import main\nsys.exit(main(['train', *sys.argv[2:]]))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    argv_all = [sys.executable, "-c", code, str(-1 if kill_at is None else kill_at), *argv]
    return subprocess.run(argv_all, env=environment, cwd=ROOT, capture_output=True).returncode


@pytest.fixture(scope="session")
def unbroken(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    assert run_train(str(config(folder, scenes)), "--run_dir", str(folder / "run")) == 0
    return folder / "run"


def test_run_folder_holds_what_it_should(unbroken: Path):
    assert {p.name for p in unbroken.iterdir()} >= {"config.yaml", "metrics.csv", "checkpoints", "model", "tensorboard"}
    names = {row[1] for row in losses(unbroken)}
    assert {"train/loss", "train/fishing", "val/aggregate", "val/fishing_fscore"} <= names
    model, metadata = load_model(unbroken)
    assert metadata.bands == ("VV_dB", "VH_dB")
    assert set(metadata.thresholds) == {"center", "vessel", "fishing", "pixels"}
    assert model.in_chans == 2


def test_same_seed_same_losses(unbroken: Path, scenes: Path, tmp_path: Path):
    assert run_train(str(config(tmp_path, scenes)), "--run_dir", str(tmp_path / "run")) == 0
    assert losses(tmp_path / "run") == losses(unbroken)


@pytest.mark.parametrize("kill_at", [0, 1, 3, 4, 6, 7])
def test_killed_run_goes_on_exactly(unbroken: Path, scenes: Path, tmp_path: Path, kill_at: int):
    argv = [str(config(tmp_path, scenes)), "--run_dir", str(tmp_path / "run")]
    assert run_train(*argv, kill_at=kill_at) == 9
    assert not (tmp_path / "run" / "done").exists()
    assert run_train(*argv) == 0
    assert losses(tmp_path / "run") == losses(unbroken)
    ours, theirs = (load_model(run)[0].state_dict() for run in (tmp_path / "run", unbroken))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_sparse_checkpoints_go_on_exactly_too(unbroken: Path, scenes: Path, tmp_path: Path):
    argv = [str(config(tmp_path, scenes)), "--run_dir", str(tmp_path / "run"), "--checkpoint_every", "3"]
    assert run_train(*argv, kill_at=5) == 9
    assert run_train(*argv) == 0
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
    assert "another model.init_args.lr" in capsys.readouterr().err
    assert (unbroken / "metrics.csv").stat().st_mtime_ns == before


def test_eval_repeats_the_best_validation(unbroken: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["eval", str(unbroken), "--json"]) == 0
    got = json.loads(capsys.readouterr().out.splitlines()[-1])
    best = max(float(value) for _, name, value in losses(unbroken)[1:] if name == "val/aggregate")
    assert got["val/aggregate"] == pytest.approx(best, abs=1e-6)
    assert main(["eval", str(unbroken), "--split", "test", "--json"]) == 0


def test_loss_that_is_not_finite_stops_and_names_the_image(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from xt.losses.detection import DetectionLoss

    plain = DetectionLoss.total
    monkeypatch.setattr(
        DetectionLoss, "total", lambda self, s: {k: v * float("nan") for k, v in plain(self, s).items()}
    )
    assert main(["train", str(config(tmp_path, scenes)), "--run_dir", str(tmp_path / "run")]) == 3
    message = capsys.readouterr().err.splitlines()[-1]
    assert "loss is not finite at step 0" in message
    assert "rows" in message
    assert not (tmp_path / "run" / "done").exists()


def test_missing_data_and_wrong_channels_are_said_in_one_line(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = config(tmp_path, scenes)
    assert main(["train", str(path), "--data.root", str(tmp_path / "none"), "--run_dir", str(tmp_path / "a")]) == 2 + 1
    assert "xt synth xview3" in capsys.readouterr().err
    argv = ["train", str(path), "--data.bands", '["VV_dB"]', "--run_dir", str(tmp_path / "b")]
    assert main(argv) == 2
    assert "the data have 1 bands (VV_dB), the model takes 2" in capsys.readouterr().err


def test_strict_yaml(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = config(tmp_path, scenes)
    path.write_text(path.read_text() + "\nseed_everything: 2\n")
    assert main(["train", str(path)]) == 2
    assert "'seed_everything' stands twice" in capsys.readouterr().err
    path.write_text("plugins: !!python/object/apply:os.system ['touch ran']\n")
    assert main(["train", str(path)]) == 2
    assert not Path("ran").exists()


def test_segmentation_of_coloured_masks(tmp_path: Path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("a", "b", "v", "t"):
        image = rng.integers(0, 80, (70, 90, 3), np.uint8)
        mask = np.zeros((70, 90, 3), np.uint8)
        image[20:40, 30:60], mask[20:40, 30:60] = 220, (0, 255, 0)
        for kind, array in (("images", image), ("masks", mask)):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / kind / f"{name}.png")
    argv = [
        str(ROOT / "configs/segmentation_ships.yaml"),
        "--data.root",
        str(tmp_path),
        "--run_dir",
        str(tmp_path / "run"),
    ]
    argv += ["--data.validation", "^v", "--data.test", "^t", "--data.image_size", "64", "--trainer.max_epochs", "12"]
    argv += ["--model.model.region_encoder.init_args.region_size", "64", "--trainer.check_val_every_n_epoch", "6"]
    argv += ["--data.crops_per_image", "8", "--trainer.enable_progress_bar", "false"]
    assert main(["train", *argv]) == 0
    values = [float(value) for _, name, value in losses(tmp_path / "run")[1:] if name == "val/iou_ship"]
    assert values[-1] > 0.5


def test_second_run_on_a_run_folder_is_refused(
    unbroken: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from xt.locks import locked

    with locked(tmp_path / "run"):
        assert main(["train", str(config(tmp_path, scenes)), "--run_dir", str(tmp_path / "run")]) == 2
    assert "is being written by process" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
