"""``xt synth``: make synthetic scenes."""

import argparse

from xt.cli import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``xt synth``."""
    parser.add_argument("kind", choices=["xview3"], help="format of the scenes")
    parser.add_argument("out", type=options.path, metavar="OUT", help="folder to write")
    parser.add_argument("--scenes", type=int, default=8, metavar="N", help="scenes in all splits (default 8)")
    parser.add_argument("--size", type=int, default=1024, metavar="PX", help="rows and columns (default 1024)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="the same seed gives the same files")
    parser.add_argument("--region", type=int, default=64, metavar="PX", help="regions that need context (64)")
    parser.add_argument("--overwrite", action="store_true", help="replace scenes made with other parameters")


def run(args: argparse.Namespace) -> int:
    """Run ``xt synth``; return the exit code."""
    from xt.cli.progress import progress
    from xt.data.synthetic.scenes import write_dataset
    from xt.errors import EXIT_OK, ConfigError

    if args.scenes < 3 or args.size < 64 or args.seed < 0 or args.region < 32:
        raise ConfigError("--scenes must be at least 3 (train, validation, test), --size 64, --seed 0, --region 32")
    show = progress(str(args.out), "scene")
    write_dataset(args.out, args.scenes, args.size, args.seed, args.overwrite, show, args.region)
    print(f"{args.out}: {args.scenes} scenes of {args.size} × {args.size} px")
    return EXIT_OK
