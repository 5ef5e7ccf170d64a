"""Reads state dicts of files that others wrote; tensors only, nothing is executed."""

import pickle
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from xt.errors import CheckpointError
from xt.models.onnx_files import read_onnx


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict, by itself or in a training checkpoint that has it under ``state_dict`` or ``model``.

    Args:
        path: ``.safetensors``, ``.onnx`` (:func:`~xt.models.onnx_files.read_onnx`), or a file of ``torch.save``.

    Raises:
        CheckpointError: If there is no such file, or it holds no state dict, or more than tensors and plain values.
    """
    if not path.is_file():
        raise CheckpointError(f"no file {path}; give a .safetensors or .onnx file, or a .pth file of tensors")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".onnx":
            return read_onnx(path)
        with warnings.catch_warnings(action="ignore"):  # of old formats, before the refusal
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} holds more than tensors and is refused; save its state dict alone") from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes these readers raise almost anything
        raise CheckpointError(f"{path} cannot be read ({first_line(error)}); fetch it again") from error
    state = loaded.get("model", loaded.get("state_dict", loaded)) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise CheckpointError(f"{path} is not a state dict of tensors")
    return state


def first_line(error: BaseException) -> str:
    """What an error says first, or else its class."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
