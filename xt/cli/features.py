"""``xt features``: encode whole images into tokens on disk."""

import argparse
import sys

from xt.cli import options
from xt.cli.images import HELP, expanded, image_argument
from xt.data.address import fault, stem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``xt features``."""
    parser.add_argument("images", type=image_argument, nargs="+", metavar="IMAGE", help=HELP)
    options.add_model(parser)
    parser.add_argument("-o", "--output", type=options.path, required=True, metavar="DIR", help="folder of the tokens")
    parser.add_argument("--overwrite", action="store_true", help="replace tokens that another model made")
    options.add_image(parser)
    options.add_precision(parser)


def run(args: argparse.Namespace) -> int:
    """Run ``xt features``; return the exit code."""
    from xt.cli.progress import progress
    from xt.data.source import Source
    from xt.errors import EXIT_OK, EXIT_SOME_FAILED, ConfigError, InputError
    from xt.inference.features import encode_image
    from xt.inference.outputs import folder_for_outputs
    from xt.inference.session import load

    images = expanded(args.images)
    names = [stem(image) for image in images]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        first, second, *_ = (image for image in images if stem(image) == twice[0])
        raise ConfigError(f"{first} and {second} have the same name; give them different output folders")
    model = load(args.model, args.device, args.plugins)
    show = progress(str(args.output), "image")
    failed = kept = 0
    with folder_for_outputs(args.output, parents=True):
        for index, (name, image) in enumerate(zip(names, images, strict=True)):
            try:
                if (wrong := fault(image)) is not None:
                    raise InputError(wrong)
                source = Source(image, model.metadata.inputs, args.bands, args.nodata)
                out = args.output / name
                kept += not encode_image(model.network, model.metadata, source, out, args.overwrite, args.precision)
            except InputError as error:
                print(f"xt: error: {error}", file=sys.stderr)
                failed += 1
            show(index + 1, len(names))
    before = f" ({kept} of them made before)" if kept else ""
    print(f"{args.output}: tokens of {len(names) - failed} images{before}")
    return EXIT_SOME_FAILED if failed else EXIT_OK
