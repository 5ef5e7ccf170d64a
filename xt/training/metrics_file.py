"""``metrics.csv``: every logged value of a run."""

import csv
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from xt.errors import OutputError
from xt.files import replacing

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
        rows = [[step, name, repr(float(value))] for name, value in metrics.items() if name != "epoch"]
        try:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([COLUMNS, *rows] if file.tell() == 0 else rows)
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error.strerror}; free space or check rights") from error

    def cut(self, step: int) -> None:
        """Drop what was logged at ``step`` and later by a run that was cut off.

        Raises:
            OutputError: If the file cannot be written; the old one stays.
        """
        if not self.path.exists():
            return
        with self.path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if len(row) == len(COLUMNS)]
        kept = [row for row in rows[1:] if int(row[0]) < step]
        with replacing(self.path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *kept])
