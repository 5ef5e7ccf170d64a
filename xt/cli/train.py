"""``xt train``: train a model from a config."""

from pathlib import Path

from xt.cli.modules import take

HELP = """usage: xt train CONFIG [--fresh] [--KEY.SUB VALUE …]

Train a model. The same command goes on with a run that was cut off, exactly.

  CONFIG              YAML file, such as configs/xview3_4096_512.yaml
  --fresh             remove the run that the folder holds and start anew
  --run_dir DIR       run folder (default: runs/ and the config's name)
  --plugins MODULE    import a module that registers classes; may be given again
  --checkpoint_every N  steps between two checkpoints (default 50)
  --KEY.SUB VALUE     override a key of the config

examples:
  xt train configs/xview3_4096_512.yaml --trainer.max_epochs 10
  xt train configs/xview3_4096_512.yaml --model.model.context Identity --run_dir runs/control
  xt train configs/segmentation_ships.yaml --model.lr 1e-3

The run folder holds config.yaml, metrics.csv, checkpoints/, tensorboard/ and model/, which xt predict takes."""


def run_argv(argv: list[str]) -> int:
    """Run ``xt train``; return the exit code."""
    from xt.errors import EXIT_OK, EXIT_USAGE, ConfigError

    if not argv or "-h" in argv or "--help" in argv:
        print(HELP)
        return EXIT_OK if argv else EXIT_USAGE
    if argv[0].startswith("-"):
        raise ConfigError(f"xt train takes the config first: xt train CONFIG {' '.join(argv)[:60]}")
    fresh = "--fresh" in argv
    overrides, modules = take([each for each in argv[1:] if each != "--fresh"])
    from xt.cli.schema import check_config

    check_config(Path(argv[0]), overrides, bool(modules))
    from xt.training.cli import train

    train(Path(argv[0]), overrides, fresh, modules)
    return EXIT_OK
