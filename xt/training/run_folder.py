"""What training does with its run folder: state saved between two steps, the best model, going on exactly."""

import hashlib
import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer

from xt.models.checkpoint import save_model
from xt.stopping import StopRequest
from xt.training.averaging import as_validated
from xt.training.checkpoints import save_checkpoint
from xt.training.ending import mark_done
from xt.training.metrics_file import MetricsFile
from xt.training.module import TrainingModule


class RunFolder(Callback):
    """Saves the state between two steps, reseeds each step, and keeps the best model.

    The state is taken before a batch, when all counters agree; so a run that goes on repeats no batch and skips none.

    Args:
        folder: The run folder.
        seed: Of the random numbers inside a step (dropout).
        every: Steps between two checkpoints; one more is taken before a step that validation or the end follows.
        stop: Asked between two batches.
    """

    def __init__(self, folder: Path, seed: int, every: int, stop: StopRequest) -> None:
        self.folder, self.seed, self.every, self.stop = folder, seed, every, stop
        self.best: float | None = None
        self._saved_at = 0
        self._begun: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back the best value."""
        best = state["best"]
        self.best = best if best is not None and math.isfinite(best) else None

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Tell the data which epoch it is, and which of its batches are done."""
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
        data = trainer.datamodule  # type: ignore[attr-defined]
        data.epoch, data.skip_batches = checkpoint["epoch"], progress["completed"]
        self._saved_at = checkpoint["global_step"]

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Take the signals back from Lightning, and drop metrics of steps that come again."""
        self.stop.listen()
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if isinstance(logger, MetricsFile):
                logger.cut(trainer.global_step)

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_index: int) -> None:
        """Save if it is time, stop if that was asked for, then seed this step."""
        step, data = trainer.global_step, trainer.datamodule  # type: ignore[attr-defined]
        data.skip_batches = 0
        # Lightning is one ahead where a run goes on in mid-epoch; loggers and val_check_interval go by what is here.
        loop = trainer.fit_loop.epoch_loop
        loop._batches_that_stepped, loop.batch_progress.total.ready = step, loop.batch_progress.total.completed + 1
        if batch_index % trainer.accumulate_grad_batches == 0:
            asked, is_due = self._asked(trainer), self._runs_out(trainer) or step % self.every == 0
            if step != self._saved_at and (asked or is_due or _closes(trainer, batch_index)):
                self._save(trainer)
                self._saved_at = step
            if asked:
                self.stop.stop()
        part, rank = batch_index % trainer.accumulate_grad_batches, trainer.global_rank
        drawn = f"{self.seed} {step}" + (f" {part}" if part else "") + (f" rank {rank}" if rank else "")
        digest = hashlib.sha256(drawn.encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    def on_validation_batch_start(self, trainer: Trainer, *args: Any) -> None:
        """Stop if that was asked for; the step before is taken again later. Several processes stop after it."""
        if trainer.world_size == 1:
            self.stop.check()

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep the model if it is the best so far."""
        assert isinstance(module, TrainingModule)
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        value = trainer.callback_metrics.get(module.monitor)
        if value is not None and math.isfinite(value) and (self.best is None or float(value) > self.best):
            self.best = float(value)
            with as_validated(trainer, module):
                self._save_model(trainer, module)

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Save the model if validation never did, and mark the run as complete."""
        assert isinstance(module, TrainingModule)
        if self.best is None:
            self._save_model(trainer, module)
        if trainer.is_global_zero:
            mark_done(self.folder, trainer, self.best is not None)

    def _asked(self, trainer: Trainer) -> bool:
        """Whether a signal has asked any of the processes to stop."""
        asked = self.stop.received is not None
        return asked if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(asked, all=False)

    def _runs_out(self, trainer: Trainer) -> bool:
        """Whether ``max_time`` may end with this step or the next one, judged by the one before."""
        now, before = time.monotonic(), self._begun
        self._begun = now
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        left = [each.time_remaining() for each in callbacks if isinstance(each, Timer)]
        if not left:  # the same in all processes, which then need not ask each other
            return False
        ends = before is not None and any(each is not None and each < 2 * (now - before) for each in left)
        return ends if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(ends, all=False)

    def _save(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            save_checkpoint(self.folder, trainer.save_checkpoint)
        else:
            trainer.save_checkpoint(self.folder / "of the first process")  # takes part, writes nothing

    def _save_model(self, trainer: Trainer, module: TrainingModule) -> None:
        if trainer.is_global_zero:
            save_model(self.folder / "model", module.model, module.metadata(), module.beside())


def _closes(trainer: Trainer, batch_index: int) -> bool:
    """Whether validation, during which nothing can be saved, or the end follows this batch."""
    if trainer.global_step + 1 == trainer.max_steps:
        return True
    epoch, period = trainer.current_epoch + 1, trainer.check_val_every_n_epoch or 1
    last = batch_index + trainer.accumulate_grad_batches >= trainer.num_training_batches
    return last and (epoch % period == 0 or epoch == trainer.max_epochs)
