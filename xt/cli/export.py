"""``xt export``: write a model as one file that other runtimes run."""

import argparse
import json
import re
from pathlib import Path

from xt.cli import options

DESCRIPTION = """Write a saved model as one file, for PyTorch without xT (.pt2) or for ONNX Runtime and others (.onnx).

The file takes image (B, C, H, W), float32 values as they are read from the raster, and normalises them itself; NaN and
the model's nodata value are pixels without data. It gives what xt predict writes:
  point detection        center, vessel, fishing (0 to 255) and length (m), each (B, H, W), NaN where there is no data
  semantic segmentation  probabilities (B, classes, H, W), and class (B, H, W), with the raster's nodata value
  regression             values (B, targets, H, W), in the unit of the targets, NaN where there is no data
  classification         scores (B, classes) and class (B,)
It is run once before it gets its name, and not written if it gives other values than the model."""

EPILOG = """examples:
  xt export runs/xview3_demo -o vessels.onnx
  xt export hf://org/ships -o ships.pt2 --size 1024x2048 --batch any"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``xt export``."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="run folder, model folder, or hf://ORG/NAME")
    parser.add_argument("-o", "--output", type=options.path, required=True, metavar="FILE", help=".pt2 or .onnx")
    parser.add_argument("--format", choices=["pt2", "onnx"], help="that of the file's name")
    size = "height and width of the images, which the file keeps to (those of training)"
    parser.add_argument("--size", type=_size, metavar="HxW", help=size)
    parser.add_argument("--batch", type=_batch, default=1, metavar="N", help="images at a time, or any (1)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file")
    options.add_plugins(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run ``xt export``; return the exit code."""
    from xt import plugins
    from xt.errors import EXIT_OK
    from xt.inference.export import export_model
    from xt.inference.outputs import check_outputs
    from xt.models.checkpoint import load_model

    plugins.load_modules(args.plugins)
    check_outputs([args.output], args.overwrite)
    model, metadata = load_model(args.model)
    done = export_model(model, metadata, args.output, args.format, args.size, args.batch, args.overwrite)
    if args.json:
        print(json.dumps({"path": str(done.path), "image": done.input, "outputs": done.outputs,
                          "difference": done.difference, "bytes": done.num_bytes}))  # fmt: skip
    else:
        outputs = ", ".join(f"{name} {_shown(shape)}" for name, shape in done.outputs.items())
        print(f"{done.path}: image {_shown(done.input)} → {outputs}")
        print(f"{done.num_bytes / 1e6:.1f} MB; differs from the model by {done.difference:.1e} of the largest value")
    return EXIT_OK


def _shown(shape: tuple[int, ...]) -> str:
    return " × ".join("any" if each < 0 else str(each) for each in shape)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)[xX×]([1-9]\d*)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a height and a width such as 512x512")
    return int(found[1]), int(found[2])


def _batch(text: str) -> int | None:
    if text == "any":
        return None
    if not re.fullmatch(r"[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of images nor any")
    return int(text)
