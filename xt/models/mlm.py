"""What a saved model says of itself to catalogues: the properties of a STAC item with the MLM extension, version 1.5.

Names of fields, tasks and dimensions are those of https://github.com/stac-extensions/mlm.
"""

import math
import re
from typing import Any

import torch

from xt.models.metadata import ModelMetadata
from xt.models.xt import XT

EXTENSION = "https://stac-extensions.github.io/mlm/v1.5.0/schema.json"
TASKS = {"point-detection": "detection", "classification": "scene-classification"}
"""Our kinds of task, where the extension has another word."""


def stac_block(model: XT, metadata: ModelMetadata) -> dict[str, Any]:
    """Return ``stac_extensions`` and ``properties``, which an item takes as they are.

    An item adds what no model knows: where and when its training data are from, and the addresses of its files.
    """
    tasks = [TASKS.get(metadata.task, metadata.task)]
    properties = {
        "mlm:name": _name(metadata.name),
        "mlm:architecture": "xT",
        "mlm:tasks": tasks,
        "mlm:framework": "PyTorch",
        "mlm:framework_version": _version(torch.__version__),
        "mlm:total_parameters": sum(each.numel() for each in model.parameters()),
        "mlm:accelerator": None,
        "mlm:accelerator_constrained": False,
        "mlm:input": [_input(metadata)],
        "mlm:output": [_output(name, channels, model.dense, tasks, metadata) for name, channels in _heads(model)],
        "mlm:hyperparameters": {
            "region_encoder": model.spec()["region_encoder"]["class_path"],
            "context": model.spec()["context"]["class_path"],
            "decoder": model.spec()["decoder"]["class_path"],
            "region_size": model.region_size,
        },
        "bands": [_band(name, metadata.nodata) for name in metadata.bands],
    }
    if metadata.resolution is not None:
        properties["gsd"] = metadata.resolution
    return {"stac_extensions": [EXTENSION], "properties": properties}


def _heads(model: XT) -> list[tuple[str, int]]:
    return list(model.spec()["heads"].items())


def _input(metadata: ModelMetadata) -> dict[str, Any]:
    size = metadata.image_size
    return {
        "name": "image",
        "description": f"Any height and width; {size} × {size} px is what it was trained on. Missing pixels are 0.",
        "bands": [{"name": band} for band in metadata.bands],
        "input": {
            "shape": [-1, len(metadata.bands), size, size],
            "dim_order": ["batch", "channel", "height", "width"],
            "data_type": "float32",
        },
        "value_scaling": [
            {"type": "z-score", "mean": mean, "stddev": std}
            for mean, std in zip(metadata.mean, metadata.std, strict=True)
        ],
        "resize_type": metadata.resize_type or None,
        "pre_processing_function": None,
    }


def _output(name: str, channels: int, dense: bool, tasks: list[str], metadata: ModelMetadata) -> dict[str, Any]:
    of_classes = bool(metadata.classes) and channels == len(metadata.classes)
    place = ["height", "width"] if dense else []
    output: dict[str, Any] = {
        "name": name,
        "tasks": tasks,
        "result": {
            "shape": [-1, channels, *([metadata.image_size] * len(place))],
            "dim_order": ["batch", "class" if of_classes else "channel", *place],
            "data_type": "float32",
        },
        "post_processing_function": None,
    }
    if of_classes:
        output["classification:classes"] = [
            {"value": value, "name": _class_name(label), "description": label}
            for value, label in enumerate(metadata.classes)
        ]
    return output


def _band(name: str, nodata: float | None) -> dict[str, Any]:
    if nodata is None:
        return {"name": name}
    return {"name": name, "nodata": nodata if math.isfinite(nodata) else str(nodata)}  # JSON has no nan


def _name(name: str) -> str:
    """A name as the extension allows it: letters, digits, ``_.-``, a letter first."""
    plain = re.sub(r"[^a-zA-Z0-9_.-]+", "-", name).strip("_.-")
    if re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.-]+[a-zA-Z0-9]", plain):
        return plain
    return f"xt-{plain}" if plain not in ("", "xt") else "xt-model"


def _class_name(label: str) -> str:
    """A name as the classification extension allows it; the description keeps the label."""
    return re.sub(r"[^0-9A-Za-z_-]+", "_", label) or "_"


def _version(version: str) -> str:
    """The number that semantic versioning allows, of one such as ``2.15.0a0+git1234``."""
    number, _, build = version.partition("+")
    found = re.match(r"\d+\.\d+\.\d+", number)
    assert found is not None
    return found.group() + (f"+{build}" if build and found.group() == number else "")
