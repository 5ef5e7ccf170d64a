"""What a prediction was made of and how it went, for a file beside the result."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from xt.data.address import shown
from xt.data.source import Source
from xt.geometry.plan import ScenePlan
from xt.inference.estimate import peak_memory
from xt.inference.options import PredictOptions
from xt.models.checkpoint import model_sha256
from xt.models.metadata import ModelMetadata
from xt.models.work import device_of
from xt.models.xt import XT


def facts_of(
    model: XT, metadata: ModelMetadata, source: Source, plan: ScenePlan, options: PredictOptions
) -> dict[str, Any]:
    """All that decides about a result: an earlier run that differs in one of these cannot be gone on with."""
    return {
        "input": [[shown(path), *state] for path, state in source.fingerprint],
        "size": [source.height, source.width],
        "bands": options.bands,
        "nodata": options.nodata,
        "window": None if options.crop is None else list(astuple(options.crop)),
        "complex_abs": options.complex_abs,
        "on_bad_tile": "nodata" if options.fill_bad_tiles else "fail",
        "model": model_sha256(model, metadata),
        "task": metadata.task,
        "context": options.context,
        "window_regions": [plan.side, plan.overlap],
        "region_batch": plan.batch,
        "decode_size": model.decode_size,
        "blend": options.blend,
        "tta": options.tta,
        "precision": options.precision,
        "device": device_of(model).type,
        "versions": {"xt": version("xt"), "torch": torch.__version__, "python": platform.python_version()},
    }


def tags_of(facts: Mapping[str, Any]) -> dict[str, str]:
    """Metadata tags of the raster."""
    return {"XT_VERSION": facts["versions"]["xt"], "XT_MODEL_SHA256": facts["model"], "XT_TASK": facts["task"]}


def write_report(
    path: Path,
    files: Sequence[Path],
    facts: Mapping[str, Any],
    summary: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> None:
    """Write facts, counts, names of files, seconds by stage and the highest memory of the process as JSON."""
    report: dict[str, Any] = {**facts, "files": [each.name for each in files], "result": dict(summary)}
    report |= {
        "seconds": {stage: round(each, 3) for stage, each in seconds.items()},
        "peak_memory_bytes": peak_memory(),
    }
    if torch.cuda.is_available():
        report["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated()
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
