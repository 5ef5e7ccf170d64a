"""What is told while a step runs."""

import threading

import pytest
import torch
from lightning.pytorch import Trainer

from tests.models.parts import small_model
from xt.models.progress import current, listening
from xt.training.progress import StepBar, StepLines, showing


def test_both_passes_tell_regions_and_tiles_from_any_thread():
    model, heard = small_model(region_batch=3, decode_size=64), []
    image = torch.randn(1, 2, 128, 128)
    with listening(lambda *what: heard.append(what)):
        total = model.statistics(image, {}, lambda maps, targets: maps["a"].sum()[None]).sum()
    assert current() is None
    backward = threading.Thread(target=total.backward)  # as autograd does on a GPU
    backward.start()
    backward.join()
    regions, tiles = [(3, 4), (4, 4)], [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert heard == [
        *(("encode regions", *each) for each in regions),
        *(("decode tiles", *each) for each in tiles),
        *(("decode tiles, backward", *each) for each in tiles),
        *(("encode regions, backward", *each) for each in regions),
    ]
    model(image)
    assert len(heard) == 12


@pytest.mark.parametrize(("terminal", "kind"), [(True, StepBar), (False, StepLines)])
def test_the_default_bar_is_replaced_and_its_absence_respected(
    terminal: bool, kind: type, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    options = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    trainer = Trainer(**options)
    with showing(trainer):
        assert type(trainer.progress_bar_callback) is kind
        assert current() is not None
    trainer = Trainer(**options, enable_progress_bar=False)
    with showing(trainer):
        assert trainer.progress_bar_callback is None
        assert current() is None


def test_lines_are_plain_rare_and_say_step_loss_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    now = 0.0
    lines = StepLines(interval=10, clock=lambda: now)
    trainer = Trainer(logger=False, enable_checkpointing=False, barebones=False, accelerator="cpu", callbacks=[lines])
    monkeypatch.setattr(Trainer, "estimated_stepping_batches", 40)
    monkeypatch.setattr(Trainer, "global_step", 0)
    monkeypatch.setattr(Trainer, "callback_metrics", {"train/loss": torch.tensor(0.25)})
    monkeypatch.setattr(Trainer, "training", True)
    lines.setup(trainer, None, "fit")
    lines.on_train_start(trainer, None)
    for now in range(1, 20):
        lines.hear("encode regions", now, 64)
    monkeypatch.setattr(Trainer, "global_step", 2)
    now = 30.0
    lines.on_train_batch_end(trainer, None)
    assert capsys.readouterr().err.splitlines() == [
        "step 1/40, loss 0.25: encode regions 10/64",
        "step 2/40, loss 0.25, ETA 0:09:30",
    ]
