"""``--plugins MODULE``: modules whose classes register themselves when they are imported."""

import argparse

HELP = "import a module that registers classes; may be given again"


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--plugins``."""
    parser.add_argument("--plugins", action="append", default=[], metavar="MODULE", help=HELP)


def take(argv: list[str]) -> tuple[list[str], list[str]]:
    """Part ``--plugins MODULE`` and ``--plugins=MODULE`` from other arguments.

    Returns:
        The other arguments, and the modules.

    Raises:
        ConfigError: If a module is missing.
    """
    from xt.errors import ConfigError

    rest, found = [], []
    given = iter(argv)
    for each in given:
        if each != "--plugins" and not each.startswith("--plugins="):
            rest.append(each)
            continue
        module = each.partition("=")[2] or next(given, "")
        if not module or module.startswith("-"):
            raise ConfigError("--plugins has no module; write --plugins MODULE")
        found.append(module)
    return rest, found
