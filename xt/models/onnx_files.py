"""Reads the weights of ONNX files in the order of a state dict, as far as an exporter left it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xt.errors import CheckpointError

FLOATS = (1, 10, 11, 16)
"""ONNX's float, float16, double and bfloat16."""


def read_onnx(path: Path) -> dict[str, Tensor]:
    """Read the floating-point weights of a graph.

    Where all have the names of a module, they come module by module, in the order in which modules first appear.
    Exporters that fold batch normalisation into convolutions, or transpose the weights of linear layers, name them
    anew: then they come in the order in which nodes use them, a tensor for each use, and transposed ones as they were.

    Args:
        path: ``.onnx``.

    Returns:
        Name → float32 tensor; names are those of the file, or of the node and the place of its input.

    Raises:
        CheckpointError: If the file cannot be read, or ``onnx`` is not installed.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
        from onnx import numpy_helper
    except ImportError as error:
        raise CheckpointError(f"{path}: ONNX files need the package onnx: pip install 'xt[onnx]'") from error
    try:
        graph = onnx.load(str(path)).graph
        tensors = {
            each.name: torch.from_numpy(numpy_helper.to_array(each).astype("float32"))
            for each in graph.initializer
            if each.data_type in FLOATS and each.dims
        }
    except (OSError, DecodeError, ValueError, onnx.checker.ValidationError) as error:
        raise CheckpointError(f"{path} cannot be read as ONNX ({type(error).__name__}); fetch it again") from error
    if not any("::" in name for name in tensors):
        return _by_module(tensors)
    return {f"{place} ({name})": value for place, name, value in _by_use(graph, tensors)}


def _by_module(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put what is of one module together: some exporters list all buffers behind all parameters."""
    modules: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        modules.setdefault(name.rpartition(".")[0], {})[name] = value
    return {name: value for of_one in modules.values() for name, value in of_one.items()}


def _by_use(graph: Any, tensors: dict[str, Tensor]) -> Iterator[tuple[str, str, Tensor]]:
    """Yield place, name and value of each weight that a node uses."""
    same: dict[str, str] = {}  # equal weights are kept once, and passed on by nodes that do nothing
    for number, node in enumerate(graph.node):
        names = [same.get(name, name) for name in node.input]
        if node.op_type == "Identity":
            same[node.output[0]] = names[0]
            continue
        for index, name in enumerate(names):
            if name in tensors:
                turned = node.op_type == "MatMul" and "::" in name and tensors[name].ndim == 2
                yield f"{node.op_type} {number}.{index}", name, tensors[name].T if turned else tensors[name]
