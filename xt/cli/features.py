"""``xt features``: encode whole images into tokens on disk."""

import argparse
import sys
from pathlib import Path

from xt.cli import device, modules
from xt.cli.predict import numbers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``xt features``."""
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="GeoTIFF, or folder of an xView3 scene")
    parser.add_argument("-m", "--model", type=Path, required=True, help="run folder of xt train, or model folder")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the tokens")
    parser.add_argument("--overwrite", action="store_true", help="replace tokens that another model made")
    parser.add_argument("--bands", type=numbers, metavar="1,2", help="bands of the image, 1-based")
    parser.add_argument("--nodata", type=float, metavar="VALUE", help="value of missing pixels, beside the file's own")
    parser.add_argument("--device", default=None, help=device.HELP)
    modules.add_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Run ``xt features``; return the exit code."""
    from xt.cli.device import load_on
    from xt.cli.progress import progress
    from xt.data.source import Source
    from xt.errors import EXIT_OK, EXIT_SOME_FAILED, ConfigError, InputError, OutputError
    from xt.inference.features import encode_image

    names = [image.name if image.is_dir() else image.stem for image in args.images]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"two images are named {twice[0]}; give them different output folders")
    model, metadata = load_on(args.device, args.model, args.plugins)
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"-o {args.output} cannot be made: {error.strerror}; choose another folder") from error
    show = progress(str(args.output), "image")
    failed = 0
    for index, (name, image) in enumerate(zip(names, args.images, strict=True)):
        try:
            if not image.exists():
                raise InputError(f"{image}: no such file")
            source = Source(image, metadata.inputs, args.bands, args.nodata)
            encode_image(model, metadata, source, args.output / name, args.overwrite)
        except InputError as error:
            print(f"xt: error: {error}", file=sys.stderr)
            failed += 1
        show(index + 1, len(names))
    print(f"{args.output}: tokens of {len(names) - failed} images")
    return EXIT_SOME_FAILED if failed else EXIT_OK
