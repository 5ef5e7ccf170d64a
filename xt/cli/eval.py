"""``xt eval``: measure trained models."""

import argparse
from itertools import chain
from pathlib import Path

from xt.cli.options import add_plugins, as_json

USAGE = "xt eval RUN [RUN …] [--split validation|test] [--json] [--data.KEY VALUE …]"
DESCRIPTION = (
    "Measure the best model of each run on its validation or test data; RUN/SPLIT.json keeps the scores of its own."
)
EPILOG = """overrides:
  --data.KEY VALUE      replaces a key of the data, such as --data.root DIR"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``xt eval``."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders of xt train")
    parser.add_argument("--split", choices=["validation", "test"], default="validation", help="data (validation)")
    parser.add_argument("--json", action="store_true", help="print JSON: of several runs, by their names")
    add_plugins(parser)


def run(args: argparse.Namespace) -> int:
    """Run ``xt eval``; return the exit code."""
    from xt.errors import EXIT_OK, ConfigError
    from xt.training.schema import check_config

    for config in [run / "config.yaml" for run in args.runs]:
        if args.overrides and config.is_file():
            check_config(config, args.overrides, bool(args.plugins))
    from xt.training.cli import evaluate
    from xt.training.processes import DEVICES

    if len(args.runs) > 1 and any(each.partition("=")[0] == DEVICES for each in args.overrides):
        raise ConfigError(f"{DEVICES}: several processes measure one run at a time; give one run, or leave it out")
    results = {str(run): evaluate(run, args.overrides, args.split, args.plugins) for run in args.runs}
    if not all(results.values()):  # a process beside the first
        return EXIT_OK
    if args.json:
        print(as_json(results if len(results) > 1 else next(iter(results.values()))))
        return EXIT_OK
    if len(results) > 1:
        print(" " * 28, "  ".join(results))
    for name in dict.fromkeys(chain(*results.values())):
        cells = [f"{scores[name]:.4f}" if name in scores else "–" for scores in results.values()]
        print(f"{name:28}", "  ".join(f"{cell:{len(run)}}" for run, cell in zip(results, cells, strict=True)).rstrip())
    return EXIT_OK
