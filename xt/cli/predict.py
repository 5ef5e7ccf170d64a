"""``xt predict``: run a trained model over whole images."""

import argparse
import json
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from xt.cli import options
from xt.cli.images import HELP, expanded, image_argument, stands_for_several
from xt.data.address import fault, stem

if TYPE_CHECKING:
    from xt.geometry.grid import Window
    from xt.inference.options import PredictOptions, Summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``xt predict``."""
    parser.add_argument("images", type=image_argument, nargs="+", metavar="IMAGE", help=HELP)
    options.add_model(parser)
    parser.add_argument("-o", "--output", type=options.path, required=True, help="GeoTIFF; a folder for several images")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs")
    parser.add_argument("--restart", action="store_true", help="begin anew what other options or another model began")
    options.add_image(parser)
    parser.add_argument(
        "--aoi", type=options.path, metavar="FILE", help="polygons (GeoJSON …); what lies in none is nodata"
    )
    parser.add_argument(
        "--mask", type=options.path, metavar="RASTER", help="on the image's grid; where it is 0 is nodata"
    )
    crop = "predict these pixels alone, on a grid of their own"
    parser.add_argument("--window", type=_window, metavar="ROW,COL,HEIGHT,WIDTH", help=crop)
    parser.add_argument("--complex", choices=["abs"], help="take complex samples by their absolute value")
    context = "over what the context mixes: windows of the trained size, or the whole scene"
    parser.add_argument("--context", choices=["windows", "full"], default="windows", help=context)
    side = "side of a context window, rounded up to whole regions (the size it was trained on)"
    parser.add_argument("--tile", type=int, metavar="PX", help=side)
    overlap = "overlap of windows, rounded up to whole regions (an eighth, at least one)"
    parser.add_argument("--overlap", type=int, metavar="PX", help=overlap)
    parser.add_argument("--blend", choices=["cosine", "linear", "none"], default="cosine", help="how windows meet")
    views = "mean over mirrored (4) or also turned (8) images, for as many times the work"
    parser.add_argument("--tta", choices=["none", "flips", "d4"], default="none", help=views)
    options.add_precision(parser)
    parser.add_argument("--on-bad-tile", choices=["fail", "nodata"], default="fail", help="if a region cannot be read")
    parser.add_argument("--co", action="append", default=[], metavar="KEY=VALUE", help="GDAL creation option")
    shard = "the first of five machines that share the images, or one image (xt merge joins it): 1/5"
    parser.add_argument("--shard", type=_shard, default=(1, 1), metavar="I/N", help=shard)
    engine = "on this machine, or in shares on a Ray cluster whose nodes see the same folders"
    parser.add_argument("--engine", choices=["local", "ray"], default="local", help=engine)
    parser.add_argument("--address", metavar="HOST:PORT", help="of the Ray cluster (RAY_ADDRESS, or one started here)")
    parser.add_argument(
        "--max-memory", type=_size, metavar="SIZE", help="such as 2G: keep to it, with more on the disk"
    )
    parser.add_argument("--dry-run", action="store_true", help="say regions, memory, disk and time, and write nothing")
    parser.add_argument("--json", action="store_true", help="print JSON, one object for each image")


def run(args: argparse.Namespace) -> int:
    """Run ``xt predict``; return the exit code."""
    from xt.errors import EXIT_OK, EXIT_SOME_FAILED, ConfigError
    from xt.inference.outputs import check_folder, output_files, refuse_inputs

    if args.engine == "ray" and (args.shard != (1, 1) or args.dry_run):
        raise ConfigError(f"--engine ray makes the shares itself; leave out --{'dry-run' if args.dry_run else 'shard'}")
    listed = any(map(stands_for_several, args.images))
    args.images = expanded(args.images)
    outputs = _outputs(args.images, args.output, listed)
    folder = next(iter(outputs.values())).parent
    shared = len(outputs) == 1
    if not shared:
        first, every = args.shard
        outputs = dict(list(outputs.items())[first - 1 :: every])
    model_folder = args.model / "model"
    inputs = [*args.images, model_folder if model_folder.is_dir() else args.model]
    inputs += [path for path in (args.aoi, args.mask) if path is not None]
    refuse_inputs(outputs.values(), inputs)
    for name, path in (("aoi", args.aoi), ("mask", args.mask)):
        if path is not None and not path.exists():
            raise ConfigError(f"--{name} {path}: no such file; check its name")
    new = folder == args.output and not folder.exists()
    check_folder(folder.parent if new else folder)
    code = EXIT_OK
    for image in list(outputs):
        if (wrong := fault(image)) is not None:
            print(f"xt: error: {wrong}", file=sys.stderr)
            code = EXIT_SOME_FAILED
            del outputs[image]
    if not new:
        code = max(code, _leave_out_existing(outputs, lambda out: [out], args))
    if not outputs:
        return code

    from xt import plugins
    from xt.inference.creation import check_cog
    from xt.inference.options import PredictOptions
    from xt.models.checkpoint import read_metadata
    from xt.tasks.registry import task_of

    plugins.load_modules(args.plugins)
    task = task_of(read_metadata(args.model))
    refuse_inputs([file for out in outputs.values() for file in output_files(out, task)], inputs)
    if not new:
        code = max(code, _leave_out_existing(outputs, lambda out: output_files(out, task), args))
        if not outputs:
            return code
    if args.aoi is not None:
        from xt.data.polygons import check_polygons

        check_polygons(args.aoi)
    creation = _creation(args.co)
    check_cog(creation, task.product)
    options = PredictOptions(
        args.context, args.tile, args.overlap, args.blend, args.bands, args.nodata, args.aoi, args.mask,
        args.window, args.complex == "abs",
        args.on_bad_tile == "nodata", args.overwrite, args.restart, args.max_memory, creation,
        args.tta, args.shard if shared else (1, 1), args.precision,
    )  # fmt: skip
    return max(code, _predict_all(outputs, folder, options, args))


def _predict_all(outputs: dict[Path, Path], folder: Path, options: "PredictOptions", args: argparse.Namespace) -> int:
    """Predict image after image; return the exit code."""
    from xt.cli.progress import progress
    from xt.errors import (
        EXIT_OK,
        EXIT_SOME_FAILED,
        InputError,
        MemoryLimitError,
        OutputError,
        XTWarning,
        memory_is_full,
    )
    from xt.inference.outputs import folder_for_outputs, free_bytes
    from xt.inference.predict import done_before, foresee, predict_image
    from xt.inference.ray_engine import predict_on_ray
    from xt.inference.session import load
    from xt.inference.shares import predict_share
    from xt.stopping import StopRequest

    code = EXIT_OK
    work = predict_image if options.share == (1, 1) else predict_share
    model = load(args.model, args.device, args.plugins)
    with folder_for_outputs(folder), StopRequest("window") as stop:
        for image, out in outputs.items():
            job = (model.network, model.metadata, image, out, options)
            try:
                if args.dry_run:
                    foreseen = foresee(model.network, model.metadata, image, options)
                    print(json.dumps(asdict(foreseen)) if args.json else foreseen)
                    if foreseen.disk > (free := free_bytes(out)):
                        text = f"{out} needs up to {foreseen.disk >> 20} MiB of disk, {free >> 20} MiB are free"
                        warnings.warn(text, XTWarning, stacklevel=2)
                    continue
                summary = None if args.overwrite else done_before(*job)
                note = "" if summary is None else "; done before, --overwrite makes it anew"
                if summary is None and args.engine == "ray":
                    show = progress(image.name, "share")
                    summary = predict_on_ray(
                        args.model, image, out, options, args.address, args.device, args.plugins, show, stop
                    )
                summary = summary or work(*job, progress(image.name, "region"), stop)
            except (InputError, OutputError, MemoryLimitError) as error:
                if len(args.images) == 1 and not isinstance(error, InputError):
                    raise
                whose = f"{image}: " if isinstance(error, MemoryLimitError) else ""
                print(f"xt: error: {whose}{error}", file=sys.stderr)
                code = EXIT_SOME_FAILED
                continue
            except (MemoryError, RuntimeError) as error:
                full = memory_is_full(error)
                if full is None:
                    raise
                advice = "--precision bf16 or a smaller --tile takes less, and the same command goes on"
                print(f"xt: error: {image}: {full}; {advice}", file=sys.stderr)
                code = EXIT_SOME_FAILED
                continue
            if options.share != (1, 1) and not note:
                more = "".join(f" --plugins {each}" for each in args.plugins)
                note = f"; share {options.share[0]} of {options.share[1]}, xt merge {out}{more} when all are done"
            print(json.dumps(asdict(summary)) if args.json else line(summary) + note)
    return code


def _leave_out_existing(
    outputs: dict[Path, Path], files: Callable[[Path], list[Path]], args: argparse.Namespace
) -> int:
    """Take out the images whose outputs may not be written, and say why; of one image alone the error goes up.

    A result that an earlier run may have made in the same way stays in: that is told when the model is known.
    """
    from xt.errors import EXIT_OK, EXIT_SOME_FAILED, OutputError
    from xt.inference.journal import is_publishing
    from xt.inference.outputs import check_outputs, made_otherwise, may_be_done

    code = EXIT_OK
    for image, out in list(outputs.items()):
        try:
            written = args.overwrite or is_publishing(out) or may_be_done(out, image)
            check_outputs(files(out), written, made=made_otherwise(out, image))
        except OutputError as error:
            if len(args.images) == 1:
                raise
            print(f"xt: error: {error}", file=sys.stderr)
            code = EXIT_SOME_FAILED
            del outputs[image]
    return code


def line(summary: "Summary") -> str:
    """What happened to an image, for the terminal."""
    facts = [f"{summary.regions} regions"]
    facts += [f"{summary.empty_regions} without data"] * bool(summary.empty_regions)
    facts += [f"{summary.bad_regions} not readable"] * bool(summary.bad_regions)
    facts += [f"{summary.points} points"] * (summary.points is not None)
    if summary.score is not None:
        facts.append(f"class {summary.label} ({summary.score:.2f})")
    return f"{summary.output}: {', '.join(facts)}"


def _window(text: str) -> "Window":
    from xt.geometry.grid import Window

    try:
        row, col, height, width = (int(each) for each in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no window such as 0,1000,2048,2048") from None
    return Window(row, col, height, width)


def _shard(text: str) -> tuple[int, int]:
    try:
        first, every = (int(each) for each in text.split("/"))
    except ValueError:
        first, every = 0, 0
    if not 1 <= first <= every:
        raise argparse.ArgumentTypeError(f"{text!r} is no share such as 1/5 to 5/5")
    return first, every


def _size(text: str) -> int:
    try:
        return _bytes(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 2G or 800M") from None


def _bytes(text: str) -> int:
    """Read ``2G``, ``1.5GiB`` or ``800MB``: powers of 1024, in any case."""
    number = text.strip().lower().removesuffix("b").removesuffix("i")
    scale = {"k": 10, "m": 20, "g": 30, "t": 40}[number[-1:]] if number[-1:] in tuple("kmgt") else None
    value = float(number[:-1]) * 2**scale if scale else 0.0
    if not 0 < value < 2**60:
        raise ValueError(text)
    return int(value)


def _creation(pairs: list[str]) -> dict[str, str]:
    from xt.errors import ConfigError

    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--co {pair}: must be KEY=VALUE")
        options[key] = value
    return options


def _outputs(images: list[Path], output: Path, listed: bool) -> dict[Path, Path]:
    from xt.errors import ConfigError

    is_file = output.suffix.lower() in (".tif", ".tiff") and not output.is_dir()
    if len(images) == 1 and is_file:
        return {images[0]: output}
    if is_file:
        raise ConfigError(f"-o {output}: {len(images)} images go into a folder; name one")
    if len(images) == 1 and not listed and not output.is_dir():
        what = "the result is a GeoTIFF, and points come beside it"
        raise ConfigError(f"-o {output}: {what}; name it .tif, or make the folder first")
    made: dict[Path, Path] = {}
    often = Counter(map(stem, dict.fromkeys(images)))
    for image in images:
        folder = f"{image.parent.name}_" if often[stem(image)] > 1 and image.parent.name else ""
        other = made.setdefault(output / f"{folder}{stem(image)}.tif", image)
        if other != image:
            raise ConfigError(f"{other} and {image} have the same name; predict them into different folders")
    return {image: out for out, image in made.items()}
