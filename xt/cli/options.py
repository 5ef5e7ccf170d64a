"""Options that several commands have."""

import argparse
import json
import math
from pathlib import Path
from typing import Any


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """Add ``--plugins MODULE``: modules whose classes register themselves when they are imported."""
    what = "import a module that registers classes; may be given again"
    parser.add_argument("--plugins", action="append", default=[], metavar="MODULE", help=what)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add ``-m``, ``--device`` and ``--plugins``."""
    what = "run folder of xt train, model folder, or hf://ORG/NAME (Hugging Face Hub)"
    parser.add_argument("-m", "--model", type=path, required=True, help=what)
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1 … (cuda if there is one)")
    add_plugins(parser)


def add_image(parser: argparse.ArgumentParser) -> None:
    """Add ``--bands`` and ``--nodata``."""
    parser.add_argument("--bands", type=numbers, metavar="1,2", help="bands of the image, 1-based")
    parser.add_argument("--nodata", type=float, metavar="VALUE", help="value of missing pixels, beside the file's own")


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add ``--precision``."""
    what = "bf16 is faster where the GPU or the CPU has instructions for it, and less exact"
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help=what)


def as_json(value: Any) -> str:
    """Write for ``--json``: what is no finite number is null, which NaN is not in JSON."""

    def known(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: known(each) for key, each in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(known(value))


def path(text: str) -> Path:
    """Read a path; an empty one, such as an unset variable of the shell gives, would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; name a file or folder")
    return Path(text)


def numbers(text: str) -> tuple[int, ...]:
    """Read ``1,2``."""
    try:
        return tuple(int(each) for each in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of bands such as 1,2") from None
