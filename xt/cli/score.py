"""``xt score``: compare predicted points with labels, or a predicted map with what is true."""

import argparse
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from xt.cli import labels
from xt.cli.options import as_json

if TYPE_CHECKING:
    from xt.data.labels import LabelTable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``xt score``."""
    what = "points (.csv), or a map of classes or numbers (.tif), that xt predict wrote; or a folder of either"
    parser.add_argument("predictions", type=Path, metavar="PRED", help=what)
    of_maps = "of a map, a raster of class indexes or numbers on its grid, or polygons; of a folder of maps, a folder"
    what = f"of points, {labels.HELP}; {of_maps} with equal names"
    parser.add_argument("labels", type=Path, metavar="LABELS", help=what)
    what = "images on which the labels lie, for labels on the map (GeoJSON, GeoPackage, shapefile, x and y)"
    parser.add_argument("--images", type=Path, nargs="+", metavar="IMAGE", help=what)
    labels.add_column(parser)
    parser.add_argument("--scene", metavar="NAME", help="score this scene alone (all that the labels name)")
    parser.add_argument("--shoreline", type=Path, metavar="DIR", help="folder of SCENE_shoreline.npy")
    parser.add_argument("--tolerance", type=float, metavar="PX", help="pixels within which an object is found (20)")
    parser.add_argument(
        "--official",
        action="store_true",
        help="as the official script: scenes without any prediction do not count",
    )
    parser.add_argument("--drop-bad-labels", action="store_true", help="leave bad rows out instead of failing")
    labels.add_map(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run ``xt score``; return the exit code."""
    import numpy as np

    from xt.data.formats import is_raster

    tables = [args.predictions]
    if args.predictions.is_dir():
        tables = sorted(args.predictions.glob("*.csv"))
    if not tables or is_raster(args.predictions):
        return _of_maps(args)
    from xt.data.address import stem
    from xt.data.labels import CLASS, LabelTable
    from xt.data.predictions import read_predictions
    from xt.data.rows import read_csv
    from xt.data.shoreline import read_shorelines
    from xt.data.targets import untold
    from xt.errors import ConfigError, InputError, XTWarning, nearest
    from xt.metrics.xview3 import SCORES, TOLERANCE, score

    labels.refuse_map_options(args, f"maps; {args.predictions} has points")
    tolerance = TOLERANCE if args.tolerance is None else args.tolerance
    if not tolerance > 0:
        raise ConfigError(f"--tolerance {tolerance:g}: it must be above 0 pixels")
    if args.official and tolerance != TOLERANCE:
        raise ConfigError(f"--official has a tolerance of {TOLERANCE:g} pixels; leave one of both out")
    predictions = LabelTable.concatenate([read_predictions(path, args.drop_bad_labels) for path in tables])
    images = labels.by_name((stem(image), image) for image in args.images or ())
    truth = labels.read(args.labels, images, args.column, args.drop_bad_labels)
    if images:
        predictions = predictions.select(np.isin(predictions.scene_id, list(images)))
    found = set(predictions.scene_id.tolist())
    if args.scene is not None:
        if args.scene not in truth.scenes:
            raise InputError(f"--scene {args.scene}: not in {args.labels}{nearest(args.scene, truth.scenes)}")
        predictions, truth = predictions.scene(args.scene), truth.scene(args.scene)
    elif silent := [name for name in truth.scenes if name not in found]:
        counted = "do not count" if args.official else "count as missed"
        warnings.warn(
            f"{len(silent)} of {len(truth.scenes)} labelled scenes have no prediction, such as {silent[0]}: "
            f"their objects {counted}; --scene NAME scores one scene alone",
            XTWarning,
            stacklevel=2,
        )
    classes = sorted({*truth.label.tolist(), *predictions.label.tolist()} - {""})
    if classes and CLASS in read_csv(tables[0])[0]:
        return _of_classes(predictions, truth, classes, tolerance, args)
    shoreline = None if args.shoreline is None else read_shorelines(args.shoreline)
    result = score(predictions, truth, shoreline, args.official, tolerance).to_dict()
    if args.json:
        print(as_json(result))
        return 0
    for name, value in result.items():
        print(f"{name:18} {value:.4f}" if isinstance(value, float) else f"{name:18} {value}")
    if shoreline is None:
        print("loc_fscore_shore is 0 without --shoreline DIR", file=sys.stderr)
    for name in untold(truth):
        print(f"{SCORES[name]} is 0: the labels do not tell it", file=sys.stderr)
    return 0


def _of_classes(
    predictions: "LabelTable", truth: "LabelTable", classes: list[str], tolerance: float, args: argparse.Namespace
) -> int:
    from xt.errors import ConfigError
    from xt.metrics.objects import class_scores

    for option, given in (("--official", args.official), ("--shoreline", args.shoreline)):
        if given:
            raise ConfigError(f"{option} is of xView3; {args.labels} has classes of its own, so leave it out")
    result = class_scores(predictions, truth, classes, tolerance)
    width = max(18, *map(len, result))
    lines = (f"{name:{width}} {each:.4f}" for name, each in result.items())
    print(as_json(result) if args.json else "\n".join(lines))
    labels.tell_without_class(truth, args.column, "count for loc_f1 alone")
    return 0


def _of_maps(args: argparse.Namespace) -> int:
    from xt.analysis.map_scores import score_maps
    from xt.analysis.map_truth import Pairs, pairs_of
    from xt.errors import ConfigError

    for name in ("images", "scene", "shoreline", "tolerance", "official", "drop_bad_labels"):
        if getattr(args, name) not in (None, False):
            raise ConfigError(f"--{name.replace('_', '-')} is of points; {args.predictions} is a map, so leave it out")
    pairs = Pairs([(args.predictions, args.labels)], [], [])
    if args.predictions.is_dir():
        pairs = pairs_of(args.predictions, args.labels)
    found = score_maps(pairs.both, labels.map_options(args))
    if args.json:
        print(as_json(found.scores | {"pixels": found.pixels, "unsaid": found.unsaid}))
    else:
        width = max(18, *map(len, found.scores))
        print("\n".join(f"{name:{width}} {value:.4f}" for name, value in found.scores.items()))
        print(f"{'pixels':{width}} {found.pixels}")
    for what, left, of in (("maps", pairs.maps, args.labels), ("files", pairs.truths, args.predictions)):
        if left:
            files = ", ".join(each.name for each in left[:3])
            text = f"{len(left)} {what} have no partner in {of} and do not count: {files}{' …' if left[3:] else ''}"
            print(text, file=sys.stderr)
    if found.unsaid:
        print(
            f"{found.unsaid} pixels of {args.labels} do not count: {args.predictions} has no data there",
            file=sys.stderr,
        )
    return 0
