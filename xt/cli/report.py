"""``xt report``: pictures of runs and of what a model found in a scene."""

import argparse
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from xt.cli import labels, options

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from xt.data.labels import LabelTable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``xt report``."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders of xt train, to be compared")
    parser.add_argument(
        "-o", "--output", type=options.path, required=True, metavar="DIR", help="folder of the pictures"
    )
    parser.add_argument("--split", choices=["validation", "test"], default="test", help="scores to compare (test)")
    parser.add_argument("--scene", type=Path, nargs="+", metavar="IMAGE", help="rasters or folders of scenes to draw")
    parser.add_argument("--points", type=Path, nargs="+", metavar="CSV", help="what xt predict found in them")
    parser.add_argument("--maps", type=Path, nargs="+", metavar="TIF", help="or the map that it made of each")
    what = f"of points, {labels.HELP}; of maps, a raster of class indexes or numbers for each, or polygons for all"
    parser.add_argument("--labels", type=Path, nargs="+", metavar="LABELS", help=what)
    labels.add_map(parser)
    labels.add_column(parser)
    parser.add_argument(
        "--tolerance", type=float, default=20.0, metavar="PX", help="pixels within which an object is found (20)"
    )


def run(args: argparse.Namespace) -> int:
    """Run ``xt report``; return the exit code."""
    from xt.errors import EXIT_OK, ConfigError

    drawn = (args.scene, args.points or args.maps)
    if any(drawn) and not (all(drawn) and args.labels):
        raise ConfigError("--scene, --labels, and --points or --maps belong together; give all three")
    if args.points and args.maps:
        raise ConfigError("--points and --maps are of different tasks; give one of them")
    if not args.maps:
        labels.refuse_map_options(args, "--maps")
    _check_numbers(args)
    if not args.tolerance > 0:
        raise ConfigError(f"--tolerance {args.tolerance:g}: it must be above 0 pixels")
    from xt.analysis import report

    runs = report.by_name(args.runs)
    found = truth = None
    if args.points:
        rasters = labels.by_name(map(_raster, args.scene), "--scene")
        found, truth = _objects(args, rasters)
    elif args.labels and not args.maps:
        truth = labels.read(args.labels[0], None, args.column, option="--scene")
    scores = _scores(runs, args.split, alone=not any(drawn))
    written = [args.output / "losses.png"]
    report.plot_curves(runs, written[0])
    if scores:
        written.append(args.output / "scores.png")
        report.plot_scores(scores, written[1], report.for_nothing(truth) if truth else {})
    if args.maps:
        written.append(args.output / "maps.png")
        from xt.analysis.map_pictures import plot_maps

        of_scenes = zip(map(_raster, args.scene), args.maps, args.labels, strict=True)
        plot_maps([(*image, path, truth) for image, path, truth in of_scenes], written[-1], labels.map_options(args))
    if found is not None and truth is not None:
        from xt.analysis.scene_pictures import plot_scenes

        written.append(args.output / "scenes.png")
        plot_scenes(rasters, found, truth, written[-1], args.tolerance)
    width = max(map(len, scores), default=0)
    for metric in report.metrics(scores):
        row = "  ".join(f"{name:>{width}} {values[metric]:.3f}" for name, values in scores.items() if metric in values)
        print(f"{metric:18} {row}")
    for path in written:
        print(path)
    return EXIT_OK


def _scores(runs: Mapping[str, Path], split: str, alone: bool) -> dict[str, dict[str, float]]:
    """Scores of the runs that have some; where nothing else is asked for, all must."""
    from xt.analysis import report
    from xt.errors import InputError, XTWarning

    scores = {}
    for name, run in runs.items():
        try:
            scores[name] = report.read_scores(run, split)
        except InputError as error:
            if alone:
                raise
            warnings.warn(f"{error}; its scores are left out", XTWarning, stacklevel=3)
    return scores


def _check_numbers(args: argparse.Namespace) -> None:
    from xt.errors import ConfigError

    if args.maps and len(args.labels) == 1:
        from xt.analysis.map_truth import is_layer

        args.labels *= len(args.scene) if is_layer(args.labels[0]) else 1
    for option, given in (("--maps", args.maps), ("--labels", args.labels)) if args.maps else ():
        if len(given) != len(args.scene):
            raise ConfigError(f"{option} has {len(given)}, --scene {len(args.scene)}; give one for each, in one order")
    if args.labels and not args.maps and len(args.labels) > 1:
        raise ConfigError(f"--labels has {len(args.labels)} tables; give one for all scenes")


def _objects(args: argparse.Namespace, rasters: dict[str, Path]) -> tuple["LabelTable", "LabelTable"]:
    """What was found and what is there; tell what is not drawn."""
    import numpy as np

    from xt.data.labels import LabelTable
    from xt.data.predictions import read_predictions

    found = LabelTable.concatenate([read_predictions(path) for path in args.points])
    path = args.labels[0]
    truth = labels.read(path, None if labels.name_pixels(path) else rasters, args.column, option="--scene")
    drawn, there = (np.isin(table.scene_id, list(rasters)) for table in (found, truth))
    _tell_others(found, drawn, "objects that were found")
    if not there.any():
        _tell_others(truth, there, "labels")
    if (found.label[drawn] != "").any() or (truth.label[there] != "").any():
        labels.tell_without_class(truth.select(there), args.column, "are drawn as fishing, vessel or other")
    return found, truth


def _tell_others(table: "LabelTable", drawn: "npt.NDArray[np.bool_]", what: str) -> None:
    from xt.errors import XTWarning

    if not drawn.all():
        other = table.scene_id[~drawn][0]
        text = f"{(~drawn).sum()} of {len(table)} {what} are of scenes that are not drawn, such as {str(other)!r}"
        warnings.warn(text, XTWarning, stacklevel=3)


def _raster(scene: Path) -> tuple[str, Path]:
    """Name of a scene and the raster that is drawn of it."""
    from xt.data.address import stem
    from xt.errors import InputError

    if not scene.is_dir():
        return stem(scene), scene
    bands = [scene / f"{band}.tif" for band in ("VV_dB", "VH_dB")]
    for band in bands:
        if band.is_file():
            return scene.name, band
    raise InputError(f"--scene {scene}: has no {bands[0].name}; give a GeoTIFF or the folder of an xView3 scene")
