"""The real ``xt train`` on small made-up data."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import ROOT, config, losses

from xt.cli.main import main
from xt.models.checkpoint import load_model


def test_run_folder_holds_what_it_should(unbroken: Path):
    assert {p.name for p in unbroken.iterdir()} >= {
        "config.yaml",
        "metrics.csv",
        "checkpoints",
        "model",
        "samples",
        "tensorboard",
    }
    names = {row[1] for row in losses(unbroken)}
    assert {"train/loss", "train/fishing", "val/aggregate", "val/fishing_fscore"} <= names
    model, metadata = load_model(unbroken)
    assert metadata.bands == ("VV_dB", "VH_dB")
    assert set(metadata.thresholds) == {"center", "vessel", "fishing", "pixels"}
    assert model.in_chans == 2


def test_eval_repeats_the_best_validation(unbroken: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["eval", str(unbroken), "--json"]) == 0
    got = json.loads(capsys.readouterr().out.splitlines()[-1])
    best = max(float(value) for _, name, value in losses(unbroken)[1:] if name == "val/aggregate")
    assert got["val/aggregate"] == pytest.approx(best, abs=1e-6)
    assert main(["eval", str(unbroken), "--split", "test", "--json"]) == 0


def test_eval_shows_several_runs_side_by_side(
    unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(unbroken, tmp_path / "a")
    (tmp_path / "longer").symlink_to("a")
    monkeypatch.chdir(tmp_path)
    assert main(["eval", "a", "longer", "--json"]) == 0
    both = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert both["a"] == both["longer"] == json.loads((tmp_path / "a/validation.json").read_text())
    assert main(["eval", "a", "longer"]) == 0
    head, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head == ["a", "longer"]
    assert rows == [[name, f"{value:.4f}", f"{value:.4f}"] for name, value in both["a"].items()]
    assert main(["eval", "a", "nowhere"]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    assert main(["eval", "a", "--data.imagesize", "64"]) == 2
    assert "--data.imagesize: unknown key 'imagesize'; did you mean 'image_size'?" in capsys.readouterr().err


def test_eval_keeps_scores_of_the_data_of_the_run_alone(
    unbroken: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(unbroken, run)
    moved.symlink_to(scenes)
    kept = run / "test.json"
    kept.unlink(missing_ok=True)
    assert main(["eval", str(run), "--split", "test", "--data.statistics", "paper"]) == 0
    said = "test.json does not keep these scores: they are not those of the run and its data (--data.statistics)"
    assert said in capsys.readouterr().err
    assert main(["eval", str(run), "--split", "test", "--trainer.limit_test_batches", "1"]) == 0
    assert "they are not those of the run and its data (--trainer.limit_test_batches)" in capsys.readouterr().err
    for other in (
        ["--trainer.fast_dev_run", "true"],
        ["--model.task.tolerance=99"],
        ["--trainer.precision", "bf16-mixed"],
    ):
        assert main(["eval", str(run), "--split", "test", *other]) == 0
        assert f"not those of the run and its data ({other[0].partition('=')[0]})" in capsys.readouterr().err
        assert not kept.exists()
    assert main(["eval", str(run), "--split", "test", "--trainer.limit_test_batches", "0"]) == 2
    assert "no batch was measured; leave out" in capsys.readouterr().err
    assert main(["eval", str(run), "--split", "test", "--data.bands", "[VH_dB, VV_dB]"]) == 2
    told = "the data have the bands VH_dB, VV_dB, the model VV_dB, VH_dB; give them in its order"
    assert told in capsys.readouterr().err
    assert not kept.exists()
    assert (
        main(
            [
                "eval",
                str(run),
                "--split",
                "test",
                f"--data.init_args.root={moved}",
                "--data.batch_size",
                "1",
                "--model.model.region_batch=2",
            ]
        )
        == 0
    )
    assert kept.exists()


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_loss_that_is_not_finite_stops_and_names_the_image(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, value: str
):
    from xt.losses.detection import DetectionLoss

    plain = DetectionLoss.total
    monkeypatch.setattr(
        DetectionLoss, "total", lambda self, *given: {k: v * float(value) for k, v in plain(self, *given).items()}
    )
    assert main(["train", str(config(tmp_path, scenes)), "--run_dir", str(tmp_path / "run")]) == 3
    message = capsys.readouterr().err.splitlines()[-1]
    assert "loss is not finite at step 0" in message
    assert "rows" in message
    assert not (tmp_path / "run" / "done").exists()


FULL = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore than one line")


def test_full_gpu_gets_less_at_a_time_and_the_same_step(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from xt.models.region.timm_features import TimmFeatures

    path = config(tmp_path, scenes)
    path.write_text(path.read_text().replace("drop_path_rate: 0.2", "drop_path_rate: 0.0"))
    assert main(["train", str(path), "--run_dir", str(tmp_path / "plain")]) == 0
    plain, sizes = TimmFeatures.forward, []

    def small(self: TimmFeatures, regions: torch.Tensor) -> list[torch.Tensor]:
        if torch.is_grad_enabled():
            sizes.append(len(regions))
            if len(regions) > 3:
                raise FULL
        return plain(self, regions)

    monkeypatch.setattr(TimmFeatures, "forward", small)
    assert main(["train", str(path), "--run_dir", str(tmp_path / "full"), "--model.model.region_batch", "8"]) == 0
    assert sizes[:2] == [4, 4]  # of four regions: 8 at a time were too many, and so were 4
    assert max(sizes[2:]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if "memory is full" in line]
    assert [line.partition("going on with ")[2].split()[0] for line in told] == ["4", "2"]
    for (step, name, value), (*same, other) in zip(losses(tmp_path / "plain"), losses(tmp_path / "full"), strict=True):
        assert same == [step, name]
        assert value == other or float(other) == pytest.approx(float(value), rel=1e-3, abs=1e-5), (step, name)
    assert load_model(tmp_path / "full" / "model")[0].region_batch == 8  # what was asked is kept


@pytest.mark.parametrize("changes", [[], ["--trainer.accumulate_grad_batches", "2"]])
def test_full_gpu_ends_with_a_line(
    scenes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    changes: list[str],
):
    from xt.training.module import TrainingModule

    def full(*given: object) -> None:
        raise FULL

    monkeypatch.setattr(TrainingModule, "training_step", full)
    argv = ["--run_dir", str(tmp_path / "run"), "--model.model.region_batch", "7", *changes]
    assert main(["train", str(config(tmp_path, scenes)), *argv]) == 3
    message = capsys.readouterr().err.splitlines()[-1]
    left = "7 regions and tiles of 512 px" if changes else "1 regions and tiles of 256 px"
    assert f"the GPU's memory is full in step 0 with {left} at a time; take --trainer.precision" in message
    assert not (tmp_path / "run" / "done").exists()


def test_missing_data_are_said_in_one_line_and_channels_follow_the_data(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = config(tmp_path, scenes)
    assert main(["train", str(path), "--data.root", str(tmp_path / "none"), "--run_dir", str(tmp_path / "a")]) == 2 + 1
    error = capsys.readouterr().err
    assert "xt synth xview3" in error
    assert f"data: no {tmp_path / 'none/train.csv'}; a relative root counts from the working directory" in error
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


def test_fresh_removes_nothing_until_the_data_are_found(unbroken: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    argv = ["train", str(config(tmp_path, tmp_path / "nowhere")), "--run_dir", str(run), "--fresh"]
    assert main(argv) == 3
    assert losses(run) == losses(unbroken)
    assert (run / "done").exists()


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
        ("--data.bands VV_dB,VH_dB", "got 'VV_dB,VH_dB'; write [VV_dB,VH_dB]"),
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
