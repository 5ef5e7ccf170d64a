"""Which implementation of an op runs: argument, then the environment variable XT_BACKEND, then the default."""

import os
from collections.abc import Collection


def choose(op: str, backends: Collection[str], asked: str | None, default: str) -> str:
    """Return the name of the backend to run.

    Args:
        op: Name of the op, for the message.
        backends: Names it has.
        asked: What the caller asks for; never replaced by another.
        default: What runs when nobody asks. ``XT_BACKEND`` counts only for ops that have a backend of that name.

    Raises:
        ValueError: If the caller asks for a backend that does not exist.
    """
    if asked is not None:
        if asked not in backends:
            raise ValueError(f"{op} has no backend {asked!r}; known: {', '.join(sorted(backends))}")
        return asked
    wanted = os.environ.get("XT_BACKEND", "")
    return wanted if wanted in backends else default
