"""``xt train`` and ``xt eval`` on LightningCLI: a positional config, short class names, one-line errors."""

import logging
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import jsonargparse
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from xt import plugins
from xt.data.base import DataModule
from xt.errors import CheckpointError, ConfigError
from xt.files import locked
from xt.models.checkpoint import find_model, load_model, load_weights
from xt.training.malloc import return_large_blocks
from xt.training.run_folder import DONE, MetricsFile, RunFolder, find_checkpoint
from xt.training.task import TrainingTask

BOUND = ("model", "data", "seed_everything")


class _CLI(LightningCLI):
    def add_arguments_to_parser(self, parser: Any) -> None:
        parser.add_argument("--plugins", type=list[str], default=[], help="modules that register classes")
        parser.add_argument("--run_dir", type=str | None, default=None, help="run folder (runs/CONFIG)")
        parser.add_argument("--checkpoint_every", type=int, default=50, help="steps between two checkpoints")


def train(config: Path, overrides: list[str], fresh: bool = False) -> Path:
    """Train, or go on with a run that was cut off.

    Args:
        config: YAML file.
        overrides: ``--key.sub value`` …
        fresh: Remove what the run folder holds and start anew.

    Returns:
        The run folder.

    Raises:
        XTError: If the config, the data or the run folder is not right.
    """
    cli = _parse(config, overrides)
    return_large_blocks(cli.datamodule.image_size)
    folder = Path(cli.config.run_dir or Path("runs") / config.stem)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        _fit(cli, folder, fresh)
    return folder


def _fit(cli: LightningCLI, folder: Path, fresh: bool) -> None:
    if fresh and folder.exists():
        shutil.rmtree(folder)
    saved = folder / "config.yaml"
    text = cli.parser.dump(cli.config)
    if saved.exists():
        _compare(saved, text, folder)
    if (folder / DONE).exists():
        print(f"{folder} is complete; --fresh trains anew")
        return
    folder.mkdir(parents=True, exist_ok=True)
    saved.write_text(text, encoding="utf-8")
    checkpoint, note = find_checkpoint(folder)
    if checkpoint or (folder / "metrics.csv").exists():
        print(note)
    metrics = MetricsFile(folder)
    if checkpoint is None:
        metrics.cut(0)
    trainer: Trainer = cli.trainer
    trainer.loggers = [*trainer.loggers, metrics, TensorBoardLogger(folder, name="", version="tensorboard")]
    seed = cli.config.seed_everything
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks.append(RunFolder(folder, seed if isinstance(seed, int) else 0, cli.config.checkpoint_every))
    trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    print(f"model: {folder / 'model'}")


def evaluate(run: Path, overrides: list[str], split: str) -> dict[str, float]:
    """Measure a run's best model on ``validation`` or ``test`` data.

    Raises:
        XTError: If the run or its data are not right.
    """
    config = run / "config.yaml"
    if not config.is_file():
        raise CheckpointError(f"{run} has no config.yaml; give a run folder of xt train")
    cli = _parse(config, overrides)
    task = cli.model
    assert isinstance(task, TrainingTask)
    model, metadata = load_model(find_model(run))
    load_weights(task.model, model.state_dict(), str(run))
    if metadata.thresholds:
        task.set_thresholds(metadata.thresholds)
    verb = cli.trainer.validate if split == "validation" else cli.trainer.test
    results = verb(task, datamodule=cli.datamodule, verbose=False)
    return {name: float(value) for name, value in results[0].items()}


def _parse(config: Path, overrides: list[str]) -> LightningCLI:
    values = _load(config)
    plugins.load_modules(list(values.get("plugins") or []))
    for kind in plugins.BUILTINS:
        for name in plugins.names(kind):
            plugins.resolve(kind, name)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for noise in (
        ".*does not have many workers.*",
        ".*args parameter is intended.*",
        ".*LeafSpec.*",
        ".*deprecated in v4.*",
    ):
        warnings.filterwarnings("ignore", noise)
    try:
        return _CLI(
            LightningModule,
            DataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            run=False,
            args=["--config", str(config), *overrides],
            seed_everything_default=1,
            trainer_defaults={"logger": False, "enable_checkpointing": False, "num_sanity_val_steps": 0,
                              "enable_model_summary": False, "log_every_n_steps": 1, "gradient_clip_val": 5.0,
                              "use_distributed_sampler": False},
            parser_kwargs={"exit_on_error": False},
        )  # fmt: skip
    except jsonargparse.ArgumentError as error:
        raise ConfigError(f"{config}: {_short(str(error))}") from error


def _short(message: str) -> str:
    inner = re.findall(
        r"(?:Key|key) ['\"][^\n]*|unrecognized arguments?: [^\n]*|Parser key [^\n]*|Problem with [^\n]*", message
    )
    return " ".join((inner[-1] if inner else message).split())[:400]


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path}: no such config")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Strict)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold keys and values")
    return values


class _Strict(yaml.SafeLoader):
    """Safe, and refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {name!r} stands twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def _compare(saved: Path, text: str, folder: Path) -> None:
    old, new = yaml.safe_load(saved.read_text(encoding="utf-8")), yaml.safe_load(text)
    changed = [key for name in BOUND for key in _differences(old.get(name), new.get(name), name)]
    if changed:
        raise ConfigError(
            f"{folder} was trained with another {changed[0]}; go on with the old config, choose another --run_dir, or "
            "train anew with --fresh"
        )


def _differences(old: Any, new: Any, path: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return [each for key in keys for each in _differences(old.get(key), new.get(key), f"{path}.{key}")]
    return [] if old == new else [path]
