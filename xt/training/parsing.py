"""From a config and overrides to trainer, task and data by LightningCLI; what does not fit is told in one line."""

import json
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonargparse
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from xt import plugins
from xt.builtin_names import BUILTINS
from xt.data.base import DataModule
from xt.errors import ConfigError, XTError, at_least
from xt.training import strict_yaml
from xt.training.module import TrainingModule
from xt.training.schema import check_config
from xt.training.trainer_arguments import TRAINER_DEFAULTS, adapted, validate_last_epoch

_NOISE = (
    ".*does not have many workers.*",
    ".*args parameter is intended.*",
    ".*LeafSpec.*",
    ".*deprecated in v4.*",
    "You're resuming from a checkpoint that ended before the epoch ended",  # where our loaders go on exactly
    "GPU available but not used",  # as the config says
    "It is recommended to use .*sync_dist",  # scores are formed over all processes
    "Grad strides do not match bucket view strides",
    "`broadcast_buffers` is deprecated",  # what takes its place is not in every supported torch
)
_LEVELS = {
    "lightning.pytorch": logging.WARNING,
    "lightning.fabric": logging.WARNING,
    "lightning.pytorch.profilers": logging.INFO,  # what trainer.profiler reports
}
_FRAME = re.compile(
    r"\s*(- )?(Parser key|Does not validate|Subtypes:|Errors:|Given value|Problem with|Expected a <class 'NoneType'|$)"
)
"""Lines of a nested message that give no reason."""


class CLI(LightningCLI):
    """Trainer, task and data of a config."""

    def add_arguments_to_parser(self, parser: Any) -> None:
        """Add the keys that are not Lightning's."""
        parser.add_argument("--plugins", type=list[str], default=[], help="modules that register classes")
        parser.add_argument("--run_dir", type=str | None, default=None, help="run folder (runs/CONFIG)")
        parser.add_argument("--checkpoint_every", type=int, default=50, help="steps between two checkpoints")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer.

        Raises:
            ConfigError: If a value of ``trainer:`` is refused, or it asks for a strategy that shards the model.
        """
        given = self._get(self.config_init, "trainer", default={})
        kwargs |= adapted(given, self.datamodule)
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, TypeError) as error:
            raise ConfigError(f"trainer: {_one_line(str(error))}") from error
        if isinstance(trainer.strategy, DDPStrategy):
            # Buffers never change, and validation may have a batch more in one process than in another.
            trainer.strategy._ddp_kwargs["broadcast_buffers"] = False
        elif not isinstance(trainer.strategy, SingleDeviceStrategy):
            raise ConfigError("trainer.strategy: a model is trained whole in each process; take strategy: auto or ddp")
        at_least(1, "trainer", check_val_every_n_epoch=trainer.check_val_every_n_epoch)
        validate_last_epoch(trainer)
        return trainer


def parse(config: Path, overrides: Sequence[str], modules: Sequence[str] = ()) -> CLI:
    """Build trainer, task and data.

    Args:
        config: YAML file.
        overrides: ``--key.sub value`` …
        modules: Register classes, beside those that the config names.

    Raises:
        XTError: If the config or a part of it is not right.
    """
    modules = list(dict.fromkeys([*load_plugins(config), *modules]))
    plugins.load_modules(modules)
    for kind in BUILTINS:
        plugins.working(kind)
    if modules:
        check_config(config, overrides, loaded=True)
    try:
        cli = CLI(
            TrainingModule,
            DataModule,
            subclass_mode_data=True,
            save_config_callback=None,
            run=False,
            args=["--config", str(config), f"--plugins={json.dumps(modules)}", *overrides],
            seed_everything_default=1,
            trainer_defaults=TRAINER_DEFAULTS,
            parser_kwargs={"exit_on_error": False},
        )
    except (jsonargparse.ArgumentError, ValueError, TypeError) as error:
        raise _translated(config, error) from error
    at_least(1, "config", checkpoint_every=cli.config.checkpoint_every)
    return cli


@contextmanager
def without_noise() -> Iterator[None]:
    """Leave out what Lightning says to everybody; a program that trains has its loggers and warnings back after it."""
    levels = [(logging.getLogger(name), level) for name, level in _LEVELS.items()]
    before = [logger.level for logger, _ in levels]
    with warnings.catch_warnings():
        for noise in _NOISE:
            warnings.filterwarnings("ignore", noise)
        try:
            for logger, level in levels:
                logger.setLevel(level)
            yield
        finally:
            for (logger, _), level in zip(levels, before, strict=True):
                logger.setLevel(level)


def load_plugins(config: Path) -> list[str]:
    """Import the modules that a config names, and return their names.

    Raises:
        ConfigError: If they are no list of names, or one cannot be found.
    """
    modules = strict_yaml.load(config).get("plugins") or []
    if not isinstance(modules, list) or not all(isinstance(each, str) for each in modules):
        raise ConfigError(f"{config}: plugins must be a list of module names, such as [my_context], got {modules!r}")
    plugins.load_modules(modules)
    return modules


def _translated(config: Path, error: BaseException) -> XTError:
    """The error of ours that jsonargparse wrapped, or one line made of its message."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, XTError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return ConfigError(f"{config}: {_short(str(error))}")


def _short(message: str) -> str:
    """Key, expected types and given value of a nested message of jsonargparse; or what it says of the key."""
    # Keys are relative to the class that they are given to.
    nested = [
        re.search(r'(?:Parser key|Key) "([^"]+)"', part) for part in message.split("Problem with given class_path")
    ]
    key = ".".join(found[1] for found in nested if found)
    missing = re.search(r"arguments? (?:are|is) required: ((?:[\w.]*\w(?:, )?)+)", message)
    if missing:
        return f"{key}.{missing[1]} is missing".lstrip(".")
    expected = re.findall(r"Expected an? (?:<class '(?:\w+\.)*(\w+)'>|typing\.Literal\[(.*)\])", message)
    wanted = dict.fromkeys(name or choices for name, choices in expected if name != "NoneType")
    got = re.findall(r"Got value: (.*)", message) or re.findall(r"Given value: (.*)", message)
    if key and wanted and got:
        given = got[0].strip()
        many = "," in given and not given.startswith("[") and {"Sequence", "List", "list", "tuple"} & {*wanted}
        return f"{key} must be {' or '.join(wanted)}, got {given!r}" + (f"; write [{given}]" if many else "")
    reasons = dict.fromkeys(line.strip(" -") for line in message.splitlines() if not _FRAME.match(line))
    return f"{key}: {_one_line('; '.join(reasons))}" if key else _one_line("; ".join(reasons))


def _one_line(message: str) -> str:
    return " ".join(message.split())[:400]
