"""Shows that something moves, also inside a step of minutes: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar

from xt.models.progress import listening
from xt.training.module import TrainingModule


@contextmanager
def showing(trainer: Trainer) -> Iterator[None]:
    """Replace Lightning's bar, unless there is none or one of another kind was chosen, and listen."""
    if type(trainer.progress_bar_callback) not in (TQDMProgressBar, RichProgressBar):  # Rich where it is installed
        yield
        return
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    shown = StepBar() if sys.stdout.isatty() else StepLines()
    callbacks[callbacks.index(trainer.progress_bar_callback)] = shown
    with listening(shown.hear):
        yield


class StepBar(TQDMProgressBar):
    """Lightning's bar with what is done inside the step."""

    _INTERVAL_S = 0.2

    def __init__(self) -> None:
        super().__init__()
        self._last = 0.0

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Metrics without a version number, which a run does not have."""
        return {key: value for key, value in super().get_metrics(trainer, pl_module).items() if key != "v_num"}

    def hear(self, what: str, done: int, total: int) -> None:
        """Show what is done inside the step."""
        now = time.monotonic()
        if now - self._last < self._INTERVAL_S or not self.trainer.training:
            return
        self._last = now
        self.train_progress_bar.set_description(f"Epoch {self.trainer.current_epoch}, {what} {done}/{total}")


class StepLines(ProgressBar):
    """A line on stderr now and then: step, loss, validation, time left, and what is done inside the step.

    Args:
        interval: Seconds between two lines, at least.
        clock: Gives seconds.
    """

    def __init__(self, interval: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._interval, self._clock = interval, clock
        self._last = self._begun = clock()
        self._first_step, self._silent = 0, False

    def disable(self) -> None:
        """Lightning silences all ranks but the first."""
        self._silent = True

    def enable(self) -> None:
        """Speak again."""
        self._silent = False

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Note where this process begins."""
        self._begun, self._first_step = self._clock(), trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        """Tell the step that is done."""
        self._tell(lambda: self._step(trainer.global_step))

    def hear(self, what: str, done: int, total: int) -> None:
        """Tell what is done inside the step."""
        head = self._step if self.trainer.training else lambda step: self._stage()
        self._tell(lambda: f"{head(self.trainer.global_step + 1)}: {what} {done}/{total}")

    def _tell(self, line: Callable[[], str]) -> None:
        now = self._clock()
        if now - self._last >= self._interval and not self._silent:
            self._last = now
            print(line(), file=sys.stderr, flush=True)

    def _stage(self) -> str:
        return "test" if self.trainer.testing else "validation"

    def _step(self, step: int) -> str:
        total = self.trainer.estimated_stepping_batches
        parts = [f"step {step}/{total}" if total != float("inf") else f"step {step}"]
        values = self.trainer.callback_metrics
        module = self.trainer.lightning_module
        names = ["train/loss", *([module.monitor] if isinstance(module, TrainingModule) else [])]
        parts += [f"{name.removeprefix('train/')} {float(values[name]):.4g}" for name in names if name in values]
        done = self.trainer.global_step - self._first_step
        if done and total != float("inf"):
            left = (self._clock() - self._begun) / done * (total - self.trainer.global_step)
            parts.append(f"ETA {timedelta(seconds=round(left))}")
        return ", ".join(parts)
