"""The other processes of a data-parallel training."""

import signal

from lightning.pytorch import Trainer


def how_others_ended(trainer: Trainer) -> str:
    """Say which of the processes that this one has started have failed and how: ``process 1, by SIGKILL``."""
    started = getattr(getattr(trainer.strategy, "launcher", None), "procs", [])
    ended = [(rank, each.poll()) for rank, each in enumerate(started, start=1)]
    return ", ".join(f"process {rank}, {_how(code)}" for rank, code in ended if code)


def _how(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
