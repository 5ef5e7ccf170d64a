"""The folder of a run: metrics, checkpoints that a kill cannot spoil, the best model, and going on exactly."""

import csv
import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from xt.errors import TrainingError
from xt.models.checkpoint import file_sha256, save_model
from xt.training.task import TrainingTask

LAST, PREVIOUS, DONE = "last.ckpt", "previous.ckpt", "done"
COLUMNS = ("step", "name", "value")


class MetricsFile(Logger):
    """Writes ``metrics.csv``: one row for each value, ``step,name,value``.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "metrics"

    @property
    def version(self) -> str:
        """There is one version."""
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> Path:
        """The file."""
        return self.path

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder holds the config."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append values."""
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(COLUMNS)
            for name, value in metrics.items():
                if name != "epoch":
                    writer.writerow([step, name, repr(float(value))])

    def cut(self, step: int) -> None:
        """Drop what was logged at ``step`` and later by a run that was killed."""
        if not self.path.exists():
            return
        with self.path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if len(row) == len(COLUMNS)]
        kept = [row for row in rows[1:] if int(row[0]) < step]
        partial = self.path.with_name(".metrics.csv.partial")
        with partial.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *kept])
        os.replace(partial, self.path)


class RunFolder(Callback):
    """Saves the state between two steps, reseeds each step, and keeps the best model.

    The state is taken before a batch, when all counters agree; so a run that goes on repeats no batch and skips none.

    Args:
        folder: The run folder.
        seed: Of the random numbers inside a step (dropout).
        every: Steps between two checkpoints.
    """

    def __init__(self, folder: Path, seed: int, every: int) -> None:
        self.folder, self.seed, self.every = folder, seed, max(every, 1)
        self.best: float | None = None
        self._resumed_at = -1

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back the best value."""
        self.best = state["best"]

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Tell the data which batches of the epoch are done, and drop metrics of steps that come again."""
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
        trainer.datamodule.skip_batches = progress["completed"]  # type: ignore[attr-defined]
        self._resumed_at = checkpoint["global_step"]
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.cut(self._resumed_at)

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_index: int) -> None:
        """Save if it is time, then seed this step."""
        step = trainer.global_step
        # Lightning is one ahead after a resume in mid-epoch; loggers take their step from here.
        trainer.fit_loop.epoch_loop._batches_that_stepped = step
        if step % self.every == 0 and step > 0 and step != self._resumed_at:
            self._save(trainer)
        digest = hashlib.sha256(f"{self.seed} {step}".encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep the model if it is the best so far."""
        assert isinstance(module, TrainingTask)
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        value = trainer.callback_metrics.get(module.monitor)
        if value is not None and (self.best is None or float(value) > self.best):
            self.best = float(value)
            save_model(self.folder / "model", module.model, module.metadata())

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Save the model if validation never did, and mark the run as complete."""
        assert isinstance(module, TrainingTask)
        if trainer.interrupted:
            return
        if self.best is None:
            save_model(self.folder / "model", module.model, module.metadata())
        (self.folder / DONE).write_text(f"{trainer.global_step} steps\n", encoding="utf-8")

    def _save(self, trainer: Trainer) -> None:
        folder = self.folder / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / ".partial"
        try:
            trainer.save_checkpoint(partial)
            digest = file_sha256(partial)
            if (folder / LAST).exists():
                os.replace(_sidecar(folder / LAST), _sidecar(folder / PREVIOUS))
                os.replace(folder / LAST, folder / PREVIOUS)
            _sidecar(folder / LAST).write_text(digest, encoding="utf-8")
            os.replace(partial, folder / LAST)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise TrainingError(f"{folder / LAST}: {error.strerror}; free space or check rights") from error


def find_checkpoint(folder: Path) -> tuple[Path | None, str]:
    """Return the newest checkpoint of a run that is whole, and a line about it."""
    for name in (LAST, PREVIOUS):
        path = folder / "checkpoints" / name
        if not path.exists():
            continue
        sidecar = _sidecar(path)
        if sidecar.exists() and file_sha256(path) == sidecar.read_text(encoding="utf-8").strip():
            return path, f"going on from {path}" + (f" ({LAST} is damaged)" if name == PREVIOUS else "")
    return None, "no whole checkpoint: starting anew"


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
