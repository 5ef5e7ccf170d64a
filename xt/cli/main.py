"""The ``xt`` command: finds the subcommand, imports it only, and turns errors into one line and an exit code."""

import argparse
import errno
import importlib
import io
import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

from xt.errors import (
    EXIT_INTERRUPTED,
    EXIT_SOME_FAILED,
    EXIT_TERMINATED,
    EXIT_USAGE,
    ConfigError,
    Stopped,
    XTError,
    XTWarning,
    memory_is_full,
    nearest,
)
from xt.malloc import use_huge_pages
from xt.stopping import speaks

COMMANDS = {
    "train": ("xt.cli.train", "train a model from a config"),
    "eval": ("xt.cli.eval", "measure a trained model on validation or test data"),
    "predict": ("xt.cli.predict", "run a trained model over whole GeoTIFFs"),
    "vectorize": ("xt.cli.vectorize", "make polygons of a map of classes"),
    "merge": ("xt.cli.merge", "join what xt predict --shard made of one image"),
    "export": ("xt.cli.export", "write a model as one file that PyTorch or ONNX Runtime runs without xT"),
    "import-upstream": ("xt.cli.import_upstream", "make a model folder of a classifier that xT's authors released"),
    "features": ("xt.cli.features", "encode whole images into tokens on disk, to train a context encoder on"),
    "score": ("xt.cli.score", "compare predicted points or maps with what is true"),
    "synth": ("xt.cli.synth", "make synthetic scenes in the format of xView3"),
    "report": ("xt.cli.report", "draw losses, scores and a scene of trained models"),
    "models": ("xt.cli.models", "list region encoders, context encoders, decoders, losses, tasks and data modules"),
    "bench": ("xt.cli.bench", "measure context encoders and operations on this machine"),
    "info": ("xt.cli.info", "describe a raster without reading its pixels"),
    "doctor": ("xt.cli.doctor", "check the installation and the machine"),
}

EXAMPLES = """examples:
  xt synth xview3 data/demo --scenes 8 --size 1024
  xt train configs/xview3_demo.yaml --trainer.max_epochs 5
  xt predict data/demo/validation/SCENE -m runs/xview3_demo -o out.tif
  xt score out.csv data/demo/validation.csv --scene SCENE

xt COMMAND --help shows the options of a command."""


def main(argv: list[str] | None = None) -> int:
    """Run ``xt`` and return its exit code.

    Args:
        argv: Arguments; those of the process by default.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    use_huge_pages()
    verbose = "-v" in argv or "--verbose" in argv
    argv = [each for each in argv if each not in ("-v", "--verbose")]
    try:
        signal.signal(signal.SIGTERM, _terminate)
    except ValueError:
        pass  # not the main thread: the caller owns the signals
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _one_line(warnings.showwarning)
            return _flushed(argv)
    except XTError as error:
        if verbose:
            raise
        print(f"xt: error: {error}", file=sys.stderr)
        return error.exit_code
    except (MemoryError, RuntimeError) as error:
        full = memory_is_full(error)
        if full is None or verbose:
            raise
        print(f"xt: error: {full}; take less at a time or smaller images", file=sys.stderr)
        return EXIT_SOME_FAILED
    except KeyboardInterrupt:
        return _stopped(EXIT_INTERRUPTED)
    except Stopped as stop:
        return _stopped(stop.exit_code)
    except BrokenPipeError:
        _drop_output()
        return EXIT_TERMINATED
    except OSError as error:
        if verbose or error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _drop_output()
        print(f"xt: error: cannot write: {error.strerror}; free space first", file=sys.stderr)
        return EXIT_SOME_FAILED


def _stopped(exit_code: int) -> int:
    if speaks():
        print("xt: interrupted" if exit_code == EXIT_INTERRUPTED else "xt: terminated", file=sys.stderr)
    return exit_code


def _flushed(argv: list[str]) -> int:
    """What is printed is written before the exit code is known, however a command ends; names of files as they can."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _dispatch(argv)
    finally:
        sys.stdout.flush()


def _drop_output() -> None:
    """Nobody takes it any more; without this Python would try once more at its end, and complain."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, without the usage of the whole command before it."""
        raise ConfigError(f"{message}; {self.prog} --help shows the options")


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0 if argv else EXIT_USAGE
    if argv[0] == "--version":
        from importlib.metadata import version

        print(f"xt {version('xt')}")
        return 0
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        print(f"xt: error: no command {name!r}{nearest(name, COMMANDS)}", file=sys.stderr)
        return EXIT_USAGE
    path, summary = COMMANDS[name]
    module = importlib.import_module(path)
    overrides = hasattr(module, "USAGE")  # keys of a config, which argparse does not know
    parser = _Parser(
        prog=f"xt {name}",
        usage=getattr(module, "USAGE", None),
        description=getattr(module, "DESCRIPTION", summary[0].upper() + summary[1:] + "."),
        epilog=getattr(module, "EPILOG", None),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    if overrides and rest and rest[0].startswith("-") and not {"-h", "--help"} & set(rest):
        raise ConfigError(f"the first argument is missing; write {module.USAGE}")
    try:
        args, more = parser.parse_known_args(rest) if overrides else (parser.parse_args(rest), [])
    except SystemExit as stop:
        return int(stop.code or 0)
    args.overrides = more
    code: int = module.run(args)
    return code


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    head = ["usage: xt COMMAND …", "", "Vision models for images that do not fit in memory.", "", "commands:"]
    return "\n".join([*head, *lines, "", "  -v  show the traceback of an error", "", EXAMPLES])


def _one_line(others: Callable[..., None]) -> Callable[..., None]:
    """Return what shows our warnings without the place in the code, and others as before."""

    def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
        if issubclass(category, XTWarning):
            print(f"xt: warning: {message}", file=sys.stderr, flush=True)
        else:
            others(message, category, *place)

    return show


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


if __name__ == "__main__":
    sys.exit(main())
