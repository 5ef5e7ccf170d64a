"""``xt eval``: measure a trained model."""

import argparse
import json
from pathlib import Path

from xt.cli.options import add_plugins

USAGE = "xt eval RUN [--split validation|test] [--json] [--data.KEY VALUE …]"
DESCRIPTION = "Measure the best model of a run on its validation or test data; RUN/SPLIT.json keeps the scores."
EPILOG = """overrides:
  --data.KEY VALUE      replaces a key of the data, such as --data.root DIR"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``xt eval``."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder of xt train")
    parser.add_argument("--split", choices=["validation", "test"], default="validation", help="data (validation)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_plugins(parser)


def run(args: argparse.Namespace) -> int:
    """Run ``xt eval``; return the exit code."""
    from xt.errors import EXIT_OK
    from xt.training.cli import evaluate

    results = evaluate(args.folder, args.overrides, args.split, args.plugins)
    if args.json:
        print(json.dumps(results))
    else:
        for name, value in results.items():
            print(f"{name:28} {value:.4f}")
    return EXIT_OK
