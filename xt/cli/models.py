"""``xt models list``: all that a config can name, built in or plugged in."""

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from xt.cli import options

if TYPE_CHECKING:
    from xt.analysis.catalogue import Listed

DESCRIPTION = """List all classes that a config can name: built in, from installed packages, from --plugins.

Of context encoders also the family, how work grows with the tokens, and how a scene is taken: in passes or segments, in
constant memory, or whole. A plug-in that cannot be used is listed with the reason."""
EPILOG = """examples:
  xt models list
  xt models list --plugins my_context --json"""
HEADS = ("family", "cost", "scenes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``xt models``."""
    parser.add_argument("action", choices=["list"], metavar="list", help="what to do")
    options.add_plugins(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, a list of objects")


def run(args: argparse.Namespace) -> int:
    """Run ``xt models``; return 0, also where a plug-in is broken: to show it is what was asked."""
    from xt.analysis.catalogue import catalogue
    from xt.errors import EXIT_OK

    listed = catalogue(args.plugins)
    print(json.dumps([asdict(each) for each in listed]) if args.json else _table(listed))
    return EXIT_OK


def _table(listed: list["Listed"]) -> str:
    rows: list[tuple[str, ...]] = []
    for kind in dict.fromkeys(each.kind for each in listed):
        of_kind = [each for each in listed if each.kind == kind]
        heads = HEADS if kind == "context_encoders" else ()
        cells = [("", kind.replace("_", " "), "from", *heads)]
        for each in of_kind:
            facts = [each.family, each.cost, each.streaming] if heads and not each.broken else []
            cells.append(("!" if each.broken else "", each.name, each.origin, *facts))
            if each.broken:
                cells.append(("", f"  {each.broken}"))
        rows += [*cells, ()]
    widths = [max((len(row[i]) for row in rows if len(row) > max(i, 2)), default=0) for i in range(3 + len(HEADS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]
    return "\n".join(lines[:-1])
