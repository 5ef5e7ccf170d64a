"""How a run ended: the mark ``done`` of a run folder, and what it says of the end."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xt.errors import CheckpointError
from xt.files import replacing

if TYPE_CHECKING:  # xt info reads the mark, and is spared seconds of imports
    from lightning.pytorch import Callback, Trainer

DONE = "done"
TIMER = "Timer"
"""Lightning's callback for ``max_time``."""
UNKNOWN = "a callback"
"""Has stopped training, and is not told by name."""
UNCHOSEN = "no validation chose the model: it is that of the last step"


def mark_done(folder: Path, trainer: "Trainer", validated: bool) -> None:
    """Mark a run as complete.

    Args:
        folder: Of the run.
        trainer: As it is at the end.
        validated: Whether a validation has chosen the model.

    Raises:
        OutputError: If it cannot be written.
    """
    facts = {
        "steps": trainer.global_step,
        "epochs": trainer.current_epoch,
        "max_epochs": trainer.max_epochs,
        "max_steps": trainer.max_steps,
        "validated": validated,
        "stopped_by": _stopper(trainer),
    }
    with replacing(folder / DONE) as partial:
        partial.write_text(json.dumps(facts) + "\n", encoding="utf-8")


def read_done(folder: Path) -> dict[str, Any] | None:
    """What the mark says; None of a run that is not complete.

    Raises:
        CheckpointError: If it cannot be read.
    """
    done = folder / DONE
    if not done.exists():
        return None
    try:
        facts: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        _ = facts["max_epochs"], facts["max_steps"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(f"{done} cannot be read; train anew with --fresh") from error
    return facts


def goes_on(facts: dict[str, Any], trainer: "Trainer") -> bool:
    """Whether a complete run has more to do: its end was moved, or what had stopped it is gone or is the clock."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    stopper, names = facts.get("stopped_by"), [type(each).__name__ for each in callbacks]
    if stopper == TIMER or stopper not in (None, UNKNOWN, *names):
        return True
    before, now = [facts["max_epochs"], facts["max_steps"]], [trainer.max_epochs, trainer.max_steps]
    return any(_limit(new) > _limit(old) for old, new in zip(before, now, strict=True))


def how_it_ended(facts: dict[str, Any]) -> list[str]:
    """Lines for what a user would not expect: an early end, a model that no validation chose."""
    lines = []
    stopper = facts.get("stopped_by")
    if stopper:
        way = "raise --trainer.max_time" if stopper == TIMER else "take it out of trainer.callbacks"
        lines.append(f"{stopper} ended the run after {facts['epochs']} epochs ({facts['steps']} steps); {way} to go on")
    if not facts.get("validated", True):
        lines.append(UNCHOSEN)
    return lines


def _stopper(trainer: "Trainer") -> str | None:
    """Name of the callback that ended training before its end, if one did."""
    from lightning.pytorch.callbacks import EarlyStopping, Timer

    steps, epochs = _limit(trainer.max_steps), _limit(trainer.max_epochs)
    if not trainer.should_stop or trainer.global_step >= steps or trainer.current_epoch >= epochs:
        return None
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for each in callbacks:
        left = each.time_remaining() if isinstance(each, Timer) else None
        if left is not None and left <= 0:
            return TIMER
    return next((type(each).__name__ for each in callbacks if isinstance(each, EarlyStopping)), UNKNOWN)


def _limit(value: int | None) -> float:
    return float("inf") if value is None or value < 0 else value
