"""``xt import-upstream``: make a model folder of a classifier that xT's authors released."""

import argparse
from pathlib import Path

from xt.cli import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``xt import-upstream``."""
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help=".pth or .safetensors, with or without wrapping")
    parser.add_argument("-o", "--output", type=options.path, required=True, metavar="DIR", help="model folder to write")
    parser.add_argument("--region-size", type=int, default=256, metavar="PX", help="side of a region (256)")
    parser.add_argument("--image-size", type=int, default=512, metavar="PX", help="side of a training image (512)")
    parser.add_argument("--classes", type=Path, metavar="FILE", help="names of the classes, one a line, in order")


def run(args: argparse.Namespace) -> int:
    """Run ``xt import-upstream``; return the exit code."""
    from xt.data.image_folder import MEAN, STD, ImageFolderData
    from xt.errors import EXIT_OK, ConfigError, OutputError
    from xt.models.checkpoint import save_model
    from xt.models.metadata import ModelMetadata
    from xt.models.upstream import read_upstream

    if args.output.exists():
        raise OutputError(f"{args.output} exists; choose another folder or remove it")
    if args.image_size < 1:
        raise ConfigError(f"--image-size {args.image_size} must be at least 1")
    model = read_upstream(args.checkpoint, args.region_size)
    number = model.spec()["heads"]["label"]
    classes = _classes(args.classes, number) if args.classes else tuple(f"class_{i}" for i in range(number))
    bands = ImageFolderData.bands if model.in_chans == 3 else tuple(f"band_{i + 1}" for i in range(model.in_chans))
    mean, std = (MEAN, STD) if model.in_chans == 3 else ((0.0,) * model.in_chans, (1.0,) * model.in_chans)
    metadata = ModelMetadata(
        "classification", bands, mean, std, classes=classes, image_size=args.image_size, name=args.checkpoint.stem
    )
    save_model(args.output, model, metadata)
    millions = sum(each.numel() for each in model.parameters()) / 1e6
    context = model.spec()["context"]["class_path"]
    print(f"{args.output}: {millions:.1f} million parameters, context {context}, {number} classes")
    return EXIT_OK


def _classes(path: Path, number: int) -> tuple[str, ...]:
    from xt.errors import InputError

    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--classes {path} cannot be read: {error}") from error
    if len(names) != number or len(set(names)) < number:
        raise InputError(f"--classes {path}: {len(set(names))} different names; the checkpoint has {number} classes")
    return names
