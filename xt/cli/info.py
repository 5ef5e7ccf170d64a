"""``xt info``: what a raster is, before a model runs on it."""

import argparse
import json
import sys
from dataclasses import asdict

from xt.data.address import image_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``xt info``."""
    parser.add_argument("rasters", type=image_path, nargs="+", metavar="RASTER", help="GeoTIFF, or its address")
    parser.add_argument("--json", action="store_true", help="print JSON, one object for each raster")


def run(args: argparse.Namespace) -> int:
    """Run ``xt info``; return the exit code."""
    from xt.data.geotiff import PLAIN, inspect
    from xt.errors import EXIT_OK, EXIT_SOME_FAILED, InputError

    code = EXIT_OK
    for path in args.rasters:
        try:
            info = inspect(path, PLAIN)
        except InputError as error:
            print(f"xt: error: {error}", file=sys.stderr)
            code = EXIT_SOME_FAILED
            continue
        if args.json:
            print(json.dumps({**asdict(info), "notes": info.notes}))
            continue
        print(info.path)
        print(f"  size       {info.height} rows × {info.width} columns, {len(info.bands)} bands, {info.dtype}")
        print(f"  colours    {', '.join(info.colours)}")
        print(f"  stored     {info.driver}, blocks {info.block[0]} × {info.block[1]}, {info.compression or 'raw'}")
        print(f"  nodata     {'none' if info.nodata is None else info.nodata}")
        print(f"  CRS        {'none' if info.crs is None else info.crs.split(chr(34))[1]}")
        if info.transform is not None:
            print(f"  transform  {', '.join(f'{value:.10g}' for value in info.transform)}")
        for note in info.notes:
            print(f"  note       {note}")
    return code
