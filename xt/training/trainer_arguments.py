"""What a config says of Lightning's trainer, made to fit how xT loads data and keeps its state."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Checkpoint,
    LearningRateFinder,
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
)

from xt.data.base import CONVERTED, DataModule
from xt.errors import ConfigError

REFUSED = {
    StochasticWeightAveraging: "averages after the last validation, and what it makes is neither measured nor kept; "
    "take EMAWeightAveraging or WeightAveraging",
    LearningRateFinder: "trains for a trial and starts over, in the run's own folder; try some --model.lr with "
    "--trainer.max_steps and other --run_dir",
    BatchSizeFinder: "trains for a trial and starts over, in the run's own folder; set data.batch_size",
    OnExceptionCheckpoint: "makes Lightning begin any other run from what it kept; xT keeps the state itself "
    "(--checkpoint_every)",
}
"""Callback → what it would do to a run."""
TRAINER_DEFAULTS = {
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
    "log_every_n_steps": 1,
    "gradient_clip_val": 5.0,
    "use_distributed_sampler": False,
}


def adapted(given: Mapping[str, Any], data: DataModule) -> dict[str, Any]:
    """Arguments of the trainer that take the place of what was given.

    Args:
        given: Arguments of the trainer.
        data: Is told to give the same batches in each epoch if ``overfit_batches`` asks for it.

    Raises:
        ConfigError: If something is asked for that cannot be had.
    """
    callbacks = given.get("callbacks") or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    for kind, reason in REFUSED.items():
        if any(isinstance(each, kind) for each in callbacks):
            raise ConfigError(f"trainer.callbacks: {kind.__name__} {reason}")
    if given.get("barebones"):
        raise ConfigError("trainer.barebones keeps neither metrics nor a model; take fast_dev_run for a trial")
    if given.get("limit_train_batches") == 0:
        raise ConfigError("trainer.limit_train_batches is 0: nothing would be trained; give more, or leave it out")
    if given.get("precision") in CONVERTED and data.gives == "points":
        raise ConfigError(
            f"trainer.precision {given['precision']}: objects come beside the images, and Lightning cannot turn them "
            "into it; take bf16-mixed, or 32-true"
        )
    own: dict[str, Any] = {"use_distributed_sampler": False}  # our samplers share samples out themselves
    if any(isinstance(each, Checkpoint) for each in callbacks):
        own["enable_checkpointing"] = True
    overfit = given.get("overfit_batches")
    if overfit:  # by itself Lightning puts a sampler of its own in the place of ours
        data.same_batches = True
        own |= {"overfit_batches": 0.0, "limit_train_batches": overfit, "limit_val_batches": overfit}
    return own


def validate_last_epoch(trainer: Trainer) -> None:
    """Have the last epoch validated, whatever ``check_val_every_n_epoch`` is: its model may well be the best."""
    loop: Any = trainer.fit_loop.epoch_loop
    is_due = loop._should_check_val_epoch

    def is_due_or_last() -> bool:
        is_last = trainer.current_epoch + 1 == trainer.max_epochs or trainer.global_step == trainer.max_steps
        return is_due() or (trainer.enable_validation and is_last)

    loop._should_check_val_epoch = is_due_or_last
