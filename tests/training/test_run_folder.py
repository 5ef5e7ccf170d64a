"""What is drawn in a step, when a state is saved, and what stays of the metrics of a run that was cut off."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from xt.stopping import StopRequest
from xt.training.metrics_file import MetricsFile
from xt.training.run_folder import RunFolder, _closes


def drawn(folder: Path, seed: int = 1, step: int = 5, batch: int = 4, accumulated: int = 2, rank: int = 0) -> float:
    """The first random number of a step."""
    progress = SimpleNamespace(total=SimpleNamespace(ready=0, completed=0))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(_batches_that_stepped=0, batch_progress=progress))
    trainer: Any = SimpleNamespace(
        global_step=step, fit_loop=loop, accumulate_grad_batches=accumulated, global_rank=rank, world_size=1, max_steps=-1,
        num_training_batches=100, callbacks=[], datamodule=SimpleNamespace(skip_batches=0),
    )  # fmt: skip
    stop: Any = SimpleNamespace(received=None)
    callback = RunFolder(folder, seed, 50, stop)
    callback._saved_at = step
    callback.on_train_batch_start(trainer, None, None, batch)  # type: ignore[arg-type]
    return float(torch.rand(()))


def test_what_a_step_draws_is_told_by_seed_step_part_and_process(tmp_path: Path):
    first = drawn(tmp_path)
    torch.rand(7)
    assert drawn(tmp_path) == first
    others = [drawn(tmp_path, **{name: value}) for name, value in (("seed", 2), ("step", 6), ("batch", 5), ("rank", 1))]
    assert len({first, *others}) == 5


def test_the_state_is_saved_before_a_step_that_validation_or_the_end_follows():
    def closes(epoch: int, batch: int, step: int = 1, max_steps: int = -1, accumulated: int = 1) -> bool:
        trainer: Any = SimpleNamespace(
            global_step=step, max_steps=max_steps, current_epoch=epoch, check_val_every_n_epoch=3, max_epochs=5,
            num_training_batches=4, accumulate_grad_batches=accumulated,
        )  # fmt: skip
        return _closes(trainer, batch)

    assert [closes(epoch, 3) for epoch in range(5)] == [False, False, True, False, True]
    assert not any(closes(epoch, 2) for epoch in range(5))
    assert [closes(2, batch, accumulated=3) for batch in (0, 3)] == [False, True]
    assert [closes(2, batch, accumulated=2) for batch in (0, 2)] == [False, True]
    assert [closes(0, 1, step, 8) for step in (6, 7)] == [False, True]


def test_metrics_of_steps_that_come_again_and_torn_lines_go(tmp_path: Path):
    file = MetricsFile(tmp_path)
    for step in range(4):
        file.log_metrics({"loss": step / 8, "epoch": 0.0}, step)
    with (tmp_path / "metrics.csv").open("a") as torn:
        torn.write("1,lo")
    file.cut(3)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert rows == ["step,name,value", "0,loss,0.0", "1,loss,0.125", "2,loss,0.25"]


@pytest.mark.parametrize(("best", "kept"), [(0.25, 0.25), (None, None), (float("nan"), None)])
def test_a_run_that_goes_on_knows_its_best(tmp_path: Path, best: float | None, kept: float | None):
    first, second = (RunFolder(tmp_path, 1, 50, StopRequest()) for _ in range(2))
    first.best = best
    second.load_state_dict(first.state_dict())
    assert second.best == kept
