"""What a run was begun with and must go on with."""

import warnings
from collections.abc import Iterator, Mapping
from copy import deepcopy
from inspect import Parameter, signature
from pathlib import Path
from pydoc import locate
from typing import Any

from lightning.pytorch import Trainer

from xt.data.base import DataModule
from xt.errors import ConfigError, XTWarning
from xt.models.factory import ModelConfig
from xt.training.averaging import averaging

BOUND_TRAINER = (
    "accumulate_grad_batches", "devices", "gradient_clip_algorithm", "gradient_clip_val", "limit_train_batches",
    "num_nodes", "overfit_batches",
)  # fmt: skip
"""Of the trainer's keys those that change what a step does; the others say how, where and for how long."""


def check_same(folder: Path, old: dict[str, Any], new: dict[str, Any], data: type[DataModule]) -> None:
    """Compare the config a run was trained with with the one it shall go on with.

    Where data lie and how the work is cut (:attr:`DataModule.unbound`, :attr:`ModelConfig.unbound`) may change.

    Raises:
        ConfigError: If what changes the result differs; names the key and both values.
    """
    before, now = _bound(old, data), _bound(new, data)
    changed = next(_differences(_completed(before, now), now, ""), None)
    if changed:
        key, before, now = changed
        raise ConfigError(
            f"{folder} was trained with another {key} ({before}, now {now}); go on with the old one, choose another "
            "--run_dir, or train anew with --fresh"
        )


def check_averaging(folder: Path, trainer: Trainer, saved: Mapping[str, Any]) -> None:
    """Compare a checkpoint with the trainer that shall go on from it: both average weights, or neither does.

    Raises:
        ConfigError: If one alone does; averaged weights would become those that are trained.
    """
    before, now = "averaging_state" in saved, bool(averaging(trainer))
    if before != now:
        with_it, without = ("with", "without") if before else ("without", "with")
        raise ConfigError(
            f"{folder} was trained {with_it} averaged weights, now {without}; leave WeightAveraging in "
            "trainer.callbacks as it was, choose another --run_dir, or train anew with --fresh"
        )


def check_data(folder: Path, state: Mapping[str, Any], data: DataModule) -> None:
    """Compare what a checkpoint's data were with what they are, where the config need not tell; warn of more or less.

    Raises:
        ConfigError: If the classes differ.
    """
    before, now = state.get("classes"), data.state_dict()
    if before is not None and before != now["classes"]:
        raise ConfigError(
            f"{folder} was trained with the classes {', '.join(before)}, now the data have "
            f"{', '.join(data.classes)}; go on with the old ones, choose another --run_dir, or train anew with --fresh"
        )
    samples = state.get("samples")
    if samples is not None and samples != now["samples"]:
        warnings.warn(
            f"{folder} was trained on {samples} samples, now there are {now['samples']}: "
            "it does not go on as it would have",
            XTWarning,
            stacklevel=2,
        )


def _bound(config: dict[str, Any], data: type[DataModule]) -> dict[str, Any]:
    kept = deepcopy({key: config.get(key) for key in ("model", "data", "seed_everything")})
    kept["trainer"] = {key: (config.get("trainer") or {}).get(key) for key in BOUND_TRAINER}
    free = [*(f"data.init_args.{key}" for key in data.unbound), *(f"model.model.{key}" for key in ModelConfig.unbound)]
    for path in free:
        *place, last = path.split(".")
        values: Any = kept
        for key in place:
            values = values.get(key) if isinstance(values, dict) else None
        if isinstance(values, dict):
            values.pop(last, None)
    return kept


def _completed(old: Any, new: Any, parameters: Mapping[str, Parameter] | None = None) -> Any:
    """The old config with the defaults of options that its classes had not yet when it was written."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return old
    of_class = locate(str(new["class_path"])) if "class_path" in new else None
    found = {}
    for key in (*old, *(key for key in new if key not in old)):
        known = signature(of_class).parameters if key == "init_args" and callable(of_class) else None
        if key in old:
            found[key] = _completed(old[key], new.get(key), known)
        elif parameters and key in parameters and parameters[key].default is not Parameter.empty:
            default = parameters[key].default
            found[key] = list(default) if isinstance(default, tuple) else default  # as YAML has it
    return found


def _differences(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield path, old, new
