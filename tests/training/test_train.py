"""The real ``xt train`` on small made-up data."""

import csv
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
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
        "region_size": 64,
        "model_args": {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "drop_path_rate": 0.2},
    }
    values = {
        "seed_everything": 1,
        "trainer": {"accelerator": "cpu", "max_epochs": 2, "enable_progress_bar": False},
        "checkpoint_every": 1,
        "model": {
            "task": "PointDetection",
            "lr": 0.001,
            "warmup_steps": 2,
            "model": {
                "region_encoder": {"class_path": "TimmFeatures", "init_args": encoder},
                "context": {"class_path": "Mamba", "init_args": {"depth": 1}},
                "context_dim": 16,
                "decoder": {"class_path": "UNet", "init_args": {"filters": [8, 8, 8], "out_stride": 4}},
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


def run_train(*argv: str, kill_at: int | None = None, by: int = 0, stage: str = "training") -> int:
    """Run ``xt train`` in a process group of its own, without a survivor; return the exit code.

    ``kill_at``: before that step's update (or in the validation after so many steps) the process ends without a word,
    or the whole group gets the signal ``by``, as Ctrl-C on a terminal does.
    """
    code = (
        "import os, sys, signal\nfrom xt.training.module import TrainingModule\n"
        "kill_at, by, stage = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]\n"
        "plain = getattr(TrainingModule, f'{stage}_step')\n"
        "def step(self, batch, index):\n"
        "    if self.global_step == kill_at: os.killpg(0, by) if by else os._exit(9)\n"
        "    return plain(self, batch, index)\n"
        "setattr(TrainingModule, f'{stage}_step', step)\n"
        "from xt.cli.main import main\n"
        "if __name__ == '__main__': sys.exit(main(['train', *sys.argv[4:]]))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    argv_all = [sys.executable, "-c", code, str(-1 if kill_at is None else kill_at), str(by), stage, *argv]
    child = subprocess.Popen(
        argv_all, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    _, err = child.communicate()
    sys.stderr.write(err.decode())
    assert any(group_is_gone(child.pid) for _ in range(200))
    return child.returncode


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    time.sleep(0.1)  # multiprocessing's tracker leaves a moment after its parent
    return False


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


@pytest.mark.parametrize("kill_at", [0, 1, 3, 7])
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
    assert "another model.lr" in capsys.readouterr().err
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
        DetectionLoss, "total", lambda self, *given: {k: v * float("nan") for k, v in plain(self, *given).items()}
    )
    assert main(["train", str(config(tmp_path, scenes)), "--run_dir", str(tmp_path / "run")]) == 3
    message = capsys.readouterr().err.splitlines()[-1]
    assert "loss is not finite at step 0" in message
    assert "rows" in message
    assert not (tmp_path / "run" / "done").exists()


def test_missing_data_are_said_in_one_line_and_channels_follow_the_data(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = config(tmp_path, scenes)
    assert main(["train", str(path), "--data.root", str(tmp_path / "none"), "--run_dir", str(tmp_path / "a")]) == 2 + 1
    assert "xt synth xview3" in capsys.readouterr().err
    run = tmp_path / "b"
    argv = ["train", str(path), "--data.bands", '["VV_dB"]', "--run_dir", str(run), "--trainer.max_steps", "1"]
    assert main(argv) == 0
    model, metadata = load_model(run)
    assert model.in_chans == 1
    assert metadata.bands == ("VV_dB",)
    assert main(["eval", str(run), "--data.bands", '["VV_dB", "VH_dB"]']) == 2
    assert "the data have 2 bands (VV_dB, VH_dB), the model was trained on 1 (VV_dB)" in capsys.readouterr().err


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
    from xt.files import locked

    with locked(tmp_path / "run"):
        assert main(["train", str(config(tmp_path, scenes)), "--run_dir", str(tmp_path / "run")]) == 2
    assert "is being written by process" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("by", "stage", "kill_at", "options"),
    [
        (signal.SIGINT, "training", 4, ["--checkpoint_every", "50", "--data.num_workers", "1"]),
        (signal.SIGTERM, "training", 5, ["--checkpoint_every", "50"]),
        (signal.SIGTERM, "validation", 4, ["--checkpoint_every", "50"]),
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
    assert run_train(*argv) == 0
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
    assert main([*argv, "--trainer.max_epochs", "3"]) == 0
    assert "going on from" in capsys.readouterr().out
    end = max(int(row[0]) for row in losses(unbroken)[1:])
    before = [[row for row in losses(each)[1:] if int(row[0]) < end] for each in (run, unbroken)]
    assert before[0] == before[1]
    steps = [int(row[0]) for row in losses(run)[1:] if row[1] == "train/loss"]
    assert steps == list(range((end + 1) * 3 // 2))
    assert main([*argv, "--trainer.max_epochs", "3"]) == 0
    assert "is complete" in capsys.readouterr().out


def test_a_run_without_a_step_binds_nothing_and_leaves_nothing(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    argv = ["train", str(config(tmp_path, tmp_path / "nowhere")), "--run_dir", str(tmp_path / "run")]
    assert main(argv) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.yaml"]
    assert main([*argv, "--data.root", str(scenes), "--trainer.max_steps", "1"]) == 0


def test_fresh_removes_nothing_until_the_data_are_found(unbroken: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    argv = ["train", str(config(tmp_path, tmp_path / "nowhere")), "--run_dir", str(run), "--fresh"]
    assert main(argv) == 3
    assert losses(run) == losses(unbroken)
    assert (run / "done").exists()


def test_where_data_lie_and_how_work_is_cut_do_not_bind(
    unbroken: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    argv = ["train", str(config(tmp_path, scenes)), "--run_dir", str(unbroken)]
    free = ["--data.root", "/elsewhere", "--data.num_workers", "2", "--model.model.region_batch", "2"]
    free += ["--model.model.decode_size", "64", "--model.model.streaming", "false", "--trainer.accelerator", "auto"]
    assert main([*argv, *free]) == 0
    assert "is complete" in capsys.readouterr().out
    for bound in (["--data.image_size", "64"], ["--trainer.gradient_clip_val", "1"], ["--seed_everything", "5"]):
        assert main([*argv, *bound]) == 2
        assert f"was trained with another {bound[0][2:6]}" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--model.lr -1", "xt: error: model.lr is -1.0; it must be above 0"),
        ("--model.lr fast", "model.lr must be float, got 'fast'"),
        ("--model.model.region_encoder.init_args.name swinv2_tt", "did you mean 'swinv2_t'"),
        ("--model.model.region_encoder.init_args.region_size 150", "region_size 150 does not divide by 32"),
        ("--model.model.region_encoder.init_args.weights PICKLE", "holds more than tensors and is refused"),
        ("--model.model.context Mambo", "did you mean 'Mamba'"),
        ("--data.image_size 0", "xt: error: data.init_args.image_size is 0; it must be at least 1"),
        ("--data.batch_size -1", "data.init_args.batch_size is -1; it must be at least 1"),
        ("--data.centred 2", "data.init_args.centred is 2.0"),
        ("--trainer.accelerator tpux", "trainer: You selected an invalid accelerator"),
        ("--trainer.max_steps -5", "trainer: `max_steps` must be"),
        ("--trainer.max_epochs two", "trainer.max_epochs must be int, got 'two'"),
        ("--checkpoint_every 0", "checkpoint_every is 0"),
        ("--run_dir /proc/none/run", "--run_dir /proc/none/run cannot be made"),
    ],
)
def test_wrong_values_are_said_in_one_line(
    scenes: Path, tmp_path: Path, argv: str, message: str, capsys: pytest.CaptureFixture[str]
):
    pickled = tmp_path / "weights.pth"
    pickled.write_bytes(pickle.dumps(Path("x")))
    options = argv.replace("PICKLE", str(pickled)).split()
    assert main(["train", str(config(tmp_path, scenes)), "--run_dir", str(tmp_path / "run"), *options]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("xt: error: ")
    assert message in error
    assert not (tmp_path / "run").exists()
