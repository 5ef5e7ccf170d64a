"""``xt merge``: join what ``xt predict --shard`` made of one image."""

import argparse
import json
from dataclasses import asdict

from xt.cli import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``xt merge``."""
    parser.add_argument("output", type=options.path, metavar="OUT.tif", help="what -o said; its shares lie beside it")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs")
    options.add_plugins(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run ``xt merge``; return the exit code."""
    from xt import plugins
    from xt.cli.predict import line
    from xt.errors import EXIT_OK
    from xt.inference.outputs import check_folder
    from xt.inference.shares import merge, merged_before

    check_folder(args.output.parent)
    plugins.load_modules(args.plugins)
    done = None if args.overwrite else merged_before(args.output)
    summary = done or merge(args.output, args.overwrite)
    print(
        json.dumps(asdict(summary))
        if args.json
        else line(summary) + ("; no share is left to join, it was made before" if done else "")
    )
    return EXIT_OK
