"""``xt eval``: measure a trained model."""

import json
from pathlib import Path

from xt.cli.modules import take

HELP = """usage: xt eval RUN [--split validation|test] [--json] [--plugins MODULE] [--data.KEY VALUE …]

Measure the best model of a run on its validation data (default) or test data.

  RUN                 run folder of xt train
  --plugins MODULE    import a module that registers classes, beside those of the run's config
  --data.KEY VALUE    override a key of the data, such as --data.root DIR"""


def run_argv(argv: list[str]) -> int:
    """Run ``xt eval``; return the exit code."""
    from xt.errors import EXIT_OK, EXIT_USAGE, ConfigError

    if not argv or "-h" in argv or "--help" in argv:
        print(HELP)
        return EXIT_OK if argv else EXIT_USAGE
    rest, modules = take([each for each in argv[1:] if each != "--json"])
    split = "validation"
    if "--split" in rest:
        place = rest.index("--split")
        split = rest[place + 1] if place + 1 < len(rest) else ""
        del rest[place : place + 2]
    if split not in ("validation", "test"):
        raise ConfigError(f"--split {split!r}: choose validation or test")
    from xt.training.cli import evaluate

    results = evaluate(Path(argv[0]), rest, split, modules)
    if "--json" in argv:
        print(json.dumps(results))
    else:
        for name, value in results.items():
            print(f"{name:28} {value:.4f}")
    return EXIT_OK
