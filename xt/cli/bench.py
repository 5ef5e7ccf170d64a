"""``xt bench``: measure context encoders, or operations and their peers, on this machine."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xt.cli import options

if TYPE_CHECKING:
    from xt.analysis.bench.learn import Lesson
    from xt.analysis.bench.settings import Settings
    from xt.analysis.bench.sweep import Budget

KINDS = ("contexts", "ops")
TOKENS = {"contexts": "4k,16k,64k", "ops": "4k,16k"}
SECONDS = {"contexts": 20.0, "ops": 5.0}
UNITS = {"k": 1000, "m": 1000**2}
DTYPES = ("float32", "bfloat16", "float16")
ONLY = {"contexts": ("slope_from", "parameters", "learn", "set"), "ops": ("peers",)}
"""Options of one kind."""
DESCRIPTION = """Measure on this machine, side by side in one run.

  xt bench contexts [NAME ...]   context encoders: parameters, time and memory at several lengths, exponents of growth;
                                 with --learn CONFIG also what each learns there, with --parameters at equal size
  xt bench ops [NAME ...]        selective_scan, hyper_attention, window_attention: beside their peers and the machine's
                                 limits; refuses to report one that does not give the results of its reference"""
EPILOG = """examples:
  xt bench contexts
  xt bench contexts Hyper TransformerXL:chunk_regions=16,min_seq_len=2048 --tokens 16k,64k,256k -o bench
  xt bench contexts --plugins my_context
  xt bench contexts --parameters 130k --learn configs/xview3_demo_context.yaml --seeds 1,2,3 -o bench
  xt bench ops selective_scan --device cuda --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``xt bench``."""
    parser.add_argument("kind", metavar="contexts|ops", help="what to measure")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of these alone; an encoder's as NAME:KEY=VALUE,…")
    parser.add_argument("--tokens", metavar="4k,16k", help="lengths (contexts 4k,16k,64k; ops 4k,16k)")
    parser.add_argument("--dim", type=int, default=128, metavar="N", help="channels of a token, for contexts (128)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to run (cpu)")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="numbers (float32)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of PyTorch (as many as it takes)")
    parser.add_argument("--repeats", type=int, default=2, metavar="N", help="rounds, of which the best counts (2)")
    parser.add_argument("--seconds", type=float, metavar="S", help="what one run may take (contexts 20, ops 5)")
    parser.add_argument("--memory", type=float, metavar="GIB", help="what one run may take (80 %% of what is free)")
    parser.add_argument("--slope-from", metavar="16k", help="exponents of lengths from here on (of the upper half)")
    parser.add_argument("--parameters", metavar="130k", help="bring each context to about so many, by depth and width")
    parser.add_argument(
        "--learn", type=Path, metavar="CONFIG", help="train each context in it and score it on test data"
    )
    parser.add_argument("--seeds", type=options.numbers, default=(1,), metavar="1,2", help="of --learn (1)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY.SUB=VALUE", help="override of its config")
    parser.add_argument("--peers", metavar="NAME,NAME", help="of these alone, for ops")
    options.add_plugins(parser)
    parser.add_argument("-o", "--output", type=options.path, metavar="DIR", help="folder of the JSON and the plot")
    parser.add_argument("--overwrite", action="store_true", help="replace them there")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Run ``xt bench``; return the exit code."""
    from xt import plugins
    from xt.analysis.bench.settings import parse_tokens
    from xt.errors import EXIT_OK, EXIT_SOME_FAILED, ConfigError, nearest

    if args.kind not in KINDS:
        raise ConfigError(f"xt bench {args.kind}: no such thing to measure{nearest(args.kind, KINDS)}")
    tokens = parse_tokens(args.tokens or TOKENS[args.kind])
    since = parse_tokens(args.slope_from, "--slope-from")[0] if args.slope_from else None
    _check(args, tokens, since)
    plugins.load_modules(args.plugins)
    from xt.analysis.bench import compare
    from xt.analysis.bench.learn import learn
    from xt.cli.progress import progress

    paths = compare.outputs(args.output, args.kind, args.overwrite, bool(args.learn)) if args.output else []
    settings, budget = _settings(args), _budget(args)
    show = progress(f"bench {args.kind}", "case")
    if args.kind == "contexts":
        names = compare.chosen(args.names, _parameters(args), settings)
        learned = learn(names, _lesson(args), settings, progress("learn", "run")) if args.learn else {}
        report = compare.compare_contexts(names, tokens, settings, budget, since, show, learned)
    else:
        wanted = args.peers.split(",") if args.peers else None
        report = compare.compare_ops(args.names, tokens, settings, budget, wanted, show)
    if paths:
        compare.write(report, paths)
    if args.json:
        json.dump(report.facts, sys.stdout)
        print()
    else:
        print("\n".join([report.text, *map(str, paths)]))
    for failure in report.failed:
        print(f"xt: error: {failure}", file=sys.stderr)
    return EXIT_SOME_FAILED if report.failed else EXIT_OK


def _check(args: argparse.Namespace, tokens: Sequence[int], since: int | None) -> None:
    """Refuse options that would do nothing, or go wrong."""
    from xt.errors import ConfigError

    for kind, options_of in ONLY.items():
        given = [each for each in options_of if getattr(args, each)]
        if given and args.kind != kind:
            raise ConfigError(f"--{given[0].replace('_', '-')} is of xt bench {kind}, not of {args.kind}")
    if args.learn and args.output is None:
        raise ConfigError("--learn needs -o DIR, which holds the runs")
    if args.set and not args.learn:
        raise ConfigError(f"--set {args.set[0]}: it overrides the config of --learn, which is not given")
    for option in ("threads", "repeats", "dim"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise ConfigError(f"--{option} {value}: it must be at least 1")
    if since is not None and sum(each >= since for each in tokens) < 2:
        longest = ", ".join(f"{each:,}" for each in tokens)
        raise ConfigError(f"--slope-from {args.slope_from}: fewer than two of the lengths ({longest}) reach it")
    if args.dtype == "float16" and args.device == "cpu":
        raise ConfigError("--dtype float16 is for GPUs: a CPU takes seconds for one small product; take bfloat16")


def _settings(args: argparse.Namespace) -> "Settings":
    import torch

    from xt.analysis.bench.settings import Settings
    from xt.errors import ConfigError

    if args.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: PyTorch finds no GPU here; xt doctor says more")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    dim = _lesson(args).dim() if args.learn else args.dim
    return Settings(args.device, args.dtype, torch.get_num_threads(), dim, tuple(args.plugins))


def _lesson(args: argparse.Namespace) -> "Lesson":
    from xt.analysis.bench.learn import Lesson

    return Lesson(args.learn, args.output / "runs", args.seeds, tuple(args.set))


def _parameters(args: argparse.Namespace) -> int | None:
    from xt.errors import ConfigError

    if args.parameters is None:
        return None
    number, unit = args.parameters.lower(), 1
    if number[-1:] in UNITS:
        number, unit = number[:-1], UNITS[number[-1]]
    if not number.isdecimal() or not int(number):
        raise ConfigError(f"--parameters {args.parameters}: write such as 130k or 2M")
    return int(number) * unit


def _budget(args: argparse.Namespace) -> "Budget":
    from xt.analysis.bench.machine import free_bytes
    from xt.analysis.bench.sweep import Budget

    memory = free_bytes(args.device) * 0.8 if args.memory is None else args.memory * 2**30
    seconds = SECONDS[args.kind] if args.seconds is None else args.seconds
    return Budget(seconds, memory / 2**20, args.repeats)
