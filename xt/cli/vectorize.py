"""``xt vectorize``: polygons of a map of classes."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from xt.cli import options

EPILOG = """examples:
  xt vectorize classes.tif -o classes.gpkg
  xt vectorize classes.tif -o ships.geojson --classes ship 3 --min-area 400"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``xt vectorize``."""
    parser.add_argument("map", type=Path, metavar="MAP", help="GeoTIFF of whole numbers, such as xt predict writes")
    out = "GeoPackage (.gpkg), or GeoJSON (.geojson) in longitude and latitude"
    parser.add_argument("-o", "--output", type=options.path, required=True, help=out)
    parser.add_argument("--overwrite", action="store_true", help="replace the output")
    parser.add_argument("--classes", nargs="+", metavar="CLASS", help="names or numbers (all)")
    parser.add_argument("--band", type=int, metavar="N", help="1-based; needed where there are several")
    parser.add_argument("--nodata", type=float, metavar="VALUE", help="value of missing pixels, beside the file's own")
    area = "leave smaller ones out: in m² where the CRS is projected, else in pixels"
    parser.add_argument("--min-area", type=float, default=0.0, metavar="AREA", help=area)
    simplify = "move borders so far to save corners; neighbours no longer meet exactly"
    parser.add_argument("--simplify", type=float, default=0.0, metavar="PX", help=simplify)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run ``xt vectorize``; return the exit code."""
    from xt.cli.progress import progress
    from xt.inference.vectorize import vectorize

    result = vectorize(
        args.map, args.output, classes=args.classes, band=args.band, nodata=args.nodata, min_area=args.min_area,
        simplify=args.simplify, overwrite=args.overwrite, progress=progress(args.map.name, "row"),
    )  # fmt: skip
    counts = ", ".join(f"{name} {count}" for name, count in list(result.by_class.items())[:12])
    more = ", …" if len(result.by_class) > 12 else ""
    line = f"{result.output}: {result.polygons} polygons{f' ({counts}{more})' if counts else ''}"
    print(json.dumps(asdict(result)) if args.json else line)
    return 0
