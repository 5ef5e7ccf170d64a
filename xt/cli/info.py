"""``xt info``: what a raster, a scene or a model is, before one runs on the other."""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from xt.cli.images import image_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``xt info``."""
    what = "GeoTIFF, or its address; scene folder with BAND.tif; run folder of xt train, or model folder"
    parser.add_argument("paths", type=image_argument, nargs="+", metavar="RASTER|SCENE|MODEL", help=what)
    parser.add_argument("--json", action="store_true", help="print JSON, one object for each of them")


def run(args: argparse.Namespace) -> int:
    """Run ``xt info``; return the exit code."""
    from xt.errors import EXIT_OK, EXIT_SOME_FAILED, CheckpointError, InputError, ModelError

    code = EXIT_OK
    for path in args.paths:
        try:
            facts, shown = (_of_folder if path.is_dir() else _of_raster)(path)
        except (InputError, CheckpointError, ModelError) as error:
            print(f"xt: error: {error}", file=sys.stderr)
            code = EXIT_SOME_FAILED
            continue
        width = max(11, *(len(name) + 1 for name, _ in shown))
        lines = [facts["path"], *(f"  {name:<{width}}{text}" for name, text in shown)]
        print(json.dumps(facts) if args.json else "\n".join(lines))
    return code


def _of_folder(path: Path) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    from xt.data.geotiff import inspect
    from xt.errors import CheckpointError, InputError
    from xt.models.checkpoint import find_model

    rasters = sorted(path.glob("*.tif"))
    try:
        find_model(path)
    except CheckpointError:
        if not rasters:
            raise InputError(
                f"{path}: no run or model (no model/ folder in it yet), and no scene (no BAND.tif)"
            ) from None
    else:
        return _of_model(path)
    bands = {raster.stem: inspect(raster) for raster in rasters}
    shown = []
    for name, info in bands.items():
        texts = [f"{info.height} × {info.width}", info.dtype]
        if info.transform is not None:
            texts.append(f"pixels of {math.hypot(info.transform[0], info.transform[3]):g} {_unit(info.crs)}".rstrip())
        texts.append("no nodata value" if info.nodata is None else f"nodata {info.nodata:g}")
        shown.append((name, ", ".join(texts)))
    shown += [("CRS", _name(crs)) for crs in dict.fromkeys(info.crs for info in bands.values() if info.crs)]
    notes = sorted({note for info in bands.values() for note in info.notes})
    facts = {name: {**asdict(info), "notes": info.notes} for name, info in bands.items()}
    return {"path": str(path), "bands": facts}, shown + [("note", note) for note in notes]


def _name(crs: str) -> str:
    return crs.split(chr(34))[1]


def _runs(names: Sequence[str]) -> str:
    """Names, those that follow each other counted."""
    counts = [(name, len(list(each))) for name, each in groupby(names)]
    return ", ".join(f"{count} × {name}" if count > 1 else name for name, count in counts)


def _unit(crs: str | None) -> str:
    from rasterio.crs import CRS

    if crs is None:
        return ""
    parsed = CRS.from_wkt(crs)
    return "degrees" if parsed.is_geographic else {"metre": "m"}.get(parsed.linear_units, parsed.linear_units)


def _of_raster(path: Path) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    from xt.data.geotiff import inspect

    info = inspect(path)
    shown = [
        ("size", f"{info.height} rows × {info.width} columns, {len(info.bands)} bands, {info.dtype}"),
        ("colours", _runs(info.colours)),
        ("stored", f"{info.driver}, blocks {info.block[0]} × {info.block[1]}, {info.compression or 'raw'}"),
        ("nodata", "none" if info.nodata is None else str(info.nodata)),
        ("CRS", "none" if info.crs is None else _name(info.crs)),
    ]
    if any(info.names):
        shown.insert(1, ("bands", ", ".join(f"{index} {name or '–'}" for index, name in enumerate(info.names, 1))))
    if info.transform is not None:
        shown.append(("transform", ", ".join(f"{value:.10g}" for value in info.transform)))
    return {**asdict(info), "notes": info.notes}, shown + [("note", note) for note in info.notes]


def _of_model(path: Path) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    from xt.models.checkpoint import read_description
    from xt.training.ending import how_it_ended, read_done

    metadata, spec = read_description(path)
    encoder, size = spec["region_encoder"], metadata.image_size
    arguments = encoder.get("init_args", {})
    shown = [
        ("task", metadata.task + (f" ({metadata.task_class})" if metadata.task_class else "")),
        ("bands", ", ".join(metadata.bands)),
        ("mean", _numbers(metadata.mean)),
        ("deviation", _numbers(metadata.std)),
        ("nodata", "none" if metadata.nodata is None else str(metadata.nodata)),
        ("regions", " ".join(filter(None, (encoder["class_path"], arguments.get("name")))) + _side(arguments)),
        (
            "context",
            spec["context"]["class_path"] + (f" of {dim} channels" if (dim := spec.get("context_dim")) else ""),
        ),
        ("decoder", spec["decoder"]["class_path"]),
        (
            "trained on",
            f"{size} × {size} px"
            + (f" of {metadata.resolution:g} m" if metadata.resolution else "")
            + (", to which whole images are brought" if metadata.resize_type else ""),
        ),
    ]
    shown += [("note", line) for line in how_it_ended(read_done(path) or {})]
    more: Mapping[str, Any] = {"classes": metadata.classes} | metadata.settings | {"thresholds": metadata.thresholds}
    shown += [(name, text) for name, value in more.items() if (text := _text(value))]
    return {"path": str(path), "model": spec, "metadata": metadata.to_dict()}, shown


def _side(arguments: Mapping[str, Any]) -> str:
    return f", {arguments['region_size']} px" if "region_size" in arguments else ""


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.5g}" for value in values)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:.5g}" if isinstance(value, float) else "none" if value is None else str(value)
