"""``xt train``: train a model from a config."""

import argparse
from pathlib import Path

from xt.cli.options import add_plugins

USAGE = "xt train CONFIG [--fresh] [--KEY.SUB VALUE …]"
DESCRIPTION = "Train a model. The same command goes on with a run that was cut off, exactly."
EPILOG = """overrides:
  --KEY.SUB VALUE       replaces a key of the config

examples:
  xt train configs/xview3_4096_512.yaml --trainer.max_epochs 10
  xt train configs/xview3_4096_512.yaml --model.model.context Identity --run_dir runs/control
  xt train configs/segmentation_ships.yaml --model.lr 1e-3
  xt train configs/xview3_demo.yaml --trainer.devices 2

The run folder holds config.yaml, metrics.csv, checkpoints/, tensorboard/ and model/, which xt predict takes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``xt train``."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML file, such as configs/xview3_4096_512.yaml")
    parser.add_argument("--fresh", action="store_true", help="remove the run that the folder holds and start anew")
    parser.add_argument("--run_dir", metavar="DIR", help="run folder (runs/ and the config's name)")
    parser.add_argument("--checkpoint_every", metavar="N", help="steps between two checkpoints (50)")
    add_plugins(parser)


def run(args: argparse.Namespace) -> int:
    """Run ``xt train``; return the exit code."""
    from xt.errors import EXIT_OK
    from xt.training.schema import check_config

    own = {"--run_dir": args.run_dir, "--checkpoint_every": args.checkpoint_every}
    overrides = [*args.overrides, *(f"{key}={value}" for key, value in own.items() if value is not None)]
    check_config(args.config, overrides, bool(args.plugins))
    from xt.training.cli import train

    train(args.config, overrides, args.fresh, args.plugins)
    return EXIT_OK
