"""``xt train`` and ``xt eval``: what becomes of a run folder, and the calls of the trainer."""

import json
import multiprocessing
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from xt.data.base import DataModule
from xt.errors import CheckpointError, ConfigError, OutputError, TrainingError, XTWarning
from xt.files import locked, replacing
from xt.malloc import return_large_blocks
from xt.models.checkpoint import find_model, load_beside, load_model
from xt.models.factory import ModelConfig
from xt.stopping import StopRequest
from xt.training import ownership
from xt.training.averaging import FrozenStay
from xt.training.binding import check_averaging, check_data, check_same
from xt.training.checkpoints import OWN, clean, find_checkpoint
from xt.training.ending import DONE, UNCHOSEN, goes_on, how_it_ended, read_done
from xt.training.metrics_file import MetricsFile
from xt.training.parsing import CLI, parse, without_noise
from xt.training.processes import DEVICES, alone, how_others_ended
from xt.training.progress import showing
from xt.training.run_folder import RunFolder
from xt.training.samples import Samples
from xt.training.schema import check_config

SCORING_TRAINER = ("accelerator", "callbacks", "devices", "enable_progress_bar", "logger", "profiler", "strategy")
"""Of the trainer's keys those that change no score."""


@without_noise()
def train(config: str | Path, overrides: Sequence[str] = (), fresh: bool = False, modules: Sequence[str] = ()) -> Path:
    """Train, or go on with a run that was cut off or whose end was moved.

    Args:
        config: YAML file.
        overrides: ``--key.sub value`` …
        fresh: Remove what the run folder holds and start anew.
        modules: Register classes, beside those that the config names.

    Returns:
        The run folder. A trial by ``trainer.fast_dev_run`` neither reads nor writes it.

    Raises:
        XTError: If the config, the data or the run folder is not right.
        Stopped: On Ctrl-C or SIGTERM; the state is saved.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # a new process reads the script from its top
        sys.exit("xt: a loader process has come to xt.train: put the call under if __name__ == '__main__':")
    if not isinstance(config, str | os.PathLike):
        raise ConfigError(f"config is a {type(config).__name__}; give the path of a YAML file")
    if isinstance(overrides, str | Mapping):
        raise ConfigError(f"overrides is {overrides!r}; give a list such as ['--trainer.max_steps', '100']")
    config, overrides = Path(config), [str(each) for each in overrides]
    modules = [modules] if isinstance(modules, str) else modules
    check_config(config, overrides, bool(modules))
    cli = parse(config, overrides, modules)
    return_large_blocks(cli.datamodule.image_size)
    folder = Path(cli.config.run_dir or Path("runs") / config.stem)
    if cli.trainer.fast_dev_run:  # type: ignore[attr-defined]
        _try(cli)
        return folder
    keep = [config, cli.datamodule.root]
    if not cli.trainer.is_global_zero:
        _follow(cli, folder, fresh)
        return folder
    ownership.check_own(folder, fresh, keep)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--run_dir {folder} cannot be made: {error.strerror}; choose another") from error
    with locked(folder):
        ownership.check_own(folder, fresh, keep)
        _fit(cli, folder, fresh)
    return folder


def _try(cli: CLI) -> None:
    """Take the few steps of ``fast_dev_run``, and keep nothing."""
    with TemporaryDirectory(prefix="xt-trial-") as scratch:
        _begin(cli, None)
        _run(cli, Path(scratch), None)
    if cli.trainer.is_global_zero:
        print("fast_dev_run: training and validation work; nothing is kept")


def _fit(cli: CLI, folder: Path, fresh: bool) -> None:
    trainer: Trainer = cli.trainer
    saved, text = folder / "config.yaml", cli.parser.dump(cli.config)
    checkpoint, note = (None, "") if fresh else find_checkpoint(folder)
    if checkpoint:
        old = yaml.safe_load(saved.read_text(encoding="utf-8"))
        check_same(folder, old, yaml.safe_load(text), type(cli.datamodule))
    done = None if fresh else read_done(folder)
    if done is not None and not goes_on(done, trainer):
        ways = how_it_ended(done) if done.get("stopped_by") else ["raise --trainer.max_epochs or max_steps to go on"]
        print(f"{folder} is complete; {ways[0]}, --fresh trains anew")
        return
    _begin(cli, checkpoint)  # before anything is written or removed
    if fresh:
        ownership.clear(folder)
    elif checkpoint or (folder / "metrics.csv").exists():
        print(note)
    clean(folder)
    (folder / DONE).unlink(missing_ok=True)
    with replacing(saved) as partial:
        partial.write_text(text, encoding="utf-8")
    trainer.loggers = [*trainer.loggers, MetricsFile(folder), TensorBoardLogger(folder, name="", version="tensorboard")]
    _run(cli, folder, checkpoint)
    for line in [*how_it_ended(read_done(folder) or {}), f"model: {folder / 'model'}"]:
        print(line)


def _follow(cli: CLI, folder: Path, fresh: bool) -> None:
    """What the other processes of a data-parallel training do; the first one has the run folder ready."""
    checkpoint = None if fresh else find_checkpoint(folder)[0]
    done = None if fresh else read_done(folder)
    if done is None or goes_on(done, cli.trainer):
        _begin(cli, checkpoint)
        _run(cli, folder, checkpoint)


def _run(cli: CLI, folder: Path, checkpoint: Path | None) -> None:
    trainer: Trainer = cli.trainer
    seed = cli.config.seed_everything
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    with StopRequest() as stop:
        for each in callbacks:
            if isinstance(each, ModelCheckpoint) and each.dirpath is None:
                each.dirpath = str(folder / OWN)
        # First, so that what others do before a step is done again where the state was saved before it.
        callbacks.insert(0, RunFolder(folder, seed if isinstance(seed, int) else 0, cli.config.checkpoint_every, stop))
        callbacks += [FrozenStay(), Samples(folder)]
        try:
            with showing(trainer):
                trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, weights_only=True)
        except (MisconfigurationException, ValueError) as error:
            # Lightning looks at the length of an interval when the data are there, and says ValueError.
            if not isinstance(error, MisconfigurationException) and "val_check_interval" not in str(error):
                raise
            raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error
        except ModuleNotFoundError as error:
            raise ConfigError(f"trainer: {' '.join(str(error).split())}; install it") from error
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"the GPU's memory is full in step {trainer.global_step} with {cli.model.model.region_batch} regions "
                f"and tiles of {cli.model.model.decode_size} px at a time; take --trainer.precision bf16-mixed, less "
                "(--model.model.region_batch, decode_size) or smaller images, and the command goes on"
            ) from error
        except RuntimeError as error:
            stop.check()  # Ctrl-C reaches loader processes too, while they start
            if str(error).startswith("Early stopping conditioned on metric"):
                raise ConfigError(f"trainer.callbacks: {' '.join(str(error).split())}") from error
            if "DataLoader worker" in str(error) and "exited unexpectedly" in str(error):
                raise TrainingError(
                    "a loader process has ended; its message stands above, or memory was full: take a smaller "
                    "--data.num_workers, or 0, and the run goes on"
                ) from error
            if trainer.world_size > 1 and "onnection" in str(error):
                which = how_others_ended(trainer)
                raise TrainingError(
                    f"another process of this training has ended{f' ({which})' if which else ''}; where no message of "
                    "its own stands above it was killed, by the system if memory was full; the same command goes on"
                ) from error
            raise


def _begin(cli: CLI, checkpoint: Path | None) -> None:
    state: dict[str, Any] = {}
    if checkpoint is not None:
        saved = torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)
        state = saved.get(type(cli.datamodule).__qualname__, {})
        cli.datamodule.load_state_dict(state)
        check_averaging(checkpoint.parents[1], cli.trainer, saved)
    cli.datamodule.prepare_data()
    cli.datamodule.setup("fit")
    if checkpoint is not None:
        check_data(checkpoint.parents[1], state, cli.datamodule)
    cli.model.build(cli.datamodule)
    cli.model.start(cli.datamodule, checkpoint)


@without_noise()
def evaluate(run: Path, overrides: list[str], split: str, modules: Sequence[str] = ()) -> dict[str, float]:
    """Measure a run's best model on ``validation`` or ``test`` data.

    ``RUN/SPLIT.json`` keeps the scores if the data are those of the run, wherever they lie now. One process does it,
    unless ``overrides`` say ``--trainer.devices``: then all but the first return nothing.

    Raises:
        XTError: If the run or its data are not right.
    """
    config = run / "config.yaml"
    if not config.is_file():
        what = "has no config.yaml" if run.is_dir() else "is no folder" if run.exists() else "does not exist"
        raise CheckpointError(f"{run} {what}; give a run folder of xt train, such as one in runs/")
    several = any(each.partition("=")[0] == DEVICES for each in overrides)
    cli = parse(config, overrides if several else [*alone(config), *overrides], modules)
    if not (read_done(run) or {}).get("validated", True):
        warnings.warn(f"{run}: {UNCHOSEN}", XTWarning, stacklevel=2)
    model, metadata = load_model(find_model(run))
    verb, stage = (cli.trainer.validate, "validate") if split == "validation" else (cli.trainer.test, "test")
    settings = metadata.settings  # of values, their mean and deviation too
    cli.datamodule.load_state_dict({**settings, "mean": metadata.mean, "std": metadata.std})
    cli.datamodule.prepare_data()
    cli.datamodule.setup(stage)
    cli.model.take(model, metadata, cli.datamodule)
    cli.model.load_beside(load_beside(run), str(run))
    with showing(cli.trainer):
        results = verb(cli.model, datamodule=cli.datamodule, verbose=False)
    if not results:
        raise ConfigError("no batch was measured; leave out trainer.limit_val_batches and limit_test_batches")
    if not cli.trainer.is_global_zero:
        return {}
    scores = {name: float(value) for name, value in results[0].items()}
    kept, other = run / f"{split}.json", _measured_otherwise(overrides, type(cli.datamodule))
    if other:
        warnings.warn(
            f"{kept} does not keep these scores: they are not those of the run and its data ({other[0]})",
            XTWarning,
            stacklevel=2,
        )
        return scores
    with replacing(kept) as partial:
        partial.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    return scores


def _measured_otherwise(overrides: Sequence[str], data: type[DataModule]) -> list[str]:
    """Overrides that change scores: not where the data lie, how they are read, or on what the work is done."""
    free = {"--data": (*data.unbound, "batch_size"), "--model": ModelConfig.unbound, "--trainer": SCORING_TRAINER}
    keys = [each.partition("=")[0] for each in overrides if each.startswith("--")]
    return [key for key in keys if not any(key.endswith(f".{each}") for each in free.get(key.partition(".")[0], ()))]
