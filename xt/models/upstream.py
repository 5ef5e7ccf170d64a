"""The classifiers that xT's authors released (bair-climate-initiative/xT), as models of this package.

Sizes are read from the weights. What the weights do not say is as released: windows of 16 tokens, heads of 128 channels
in ``Hyper``, which is causal and samples without taper; only the side of a region must be told.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xt.errors import CheckpointError
from xt.models.checkpoint import load_weights
from xt.models.factory import build_from_spec
from xt.models.state_files import read_state
from xt.models.xt import XT

State = dict[str, Tensor]

PRESETS_BY_SIZES: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {
    (96, (2, 2, 6, 2), (3, 6, 12, 24)): "swinv2_t",
    (96, (2, 2, 18, 2), (3, 6, 12, 24)): "swinv2_s",
    (128, (2, 2, 18, 2), (4, 8, 16, 32)): "swinv2_b",
    (192, (2, 2, 18, 2), (6, 12, 24, 48)): "swinv2_l",
}
"""Channels after the stem, blocks and heads of each stage → preset."""
WINDOW = 16
RENAMES = {
    "encoder.": "region_encoder.",
    "decoder.input_proj.": "context.input_proj.",
    "decoder.cls_token": "context.class_token",
    "decoder.layers.": "context.encoder.layers.",
    "decoder.cls.0.": "decoder.norm.",
    "decoder.cls.1.": "heads.label.",
}
"""Beginning of a name in a released state dict → in a state dict of :class:`~xt.models.xt.XT`."""


def read_upstream(path: Path, region_size: int = 256) -> XT:
    """Build the model of a released checkpoint, with its weights.

    Args:
        path: State dict or training checkpoint (``state_dict`` in it), ``.pth`` or ``.safetensors``.
        region_size: Side of a region in pixels.

    Returns:
        The model in evaluation mode on the CPU.

    Raises:
        CheckpointError: If the file cannot be read, is no such checkpoint, or a tensor of it has no place.
        ModelError: If regions of this size do not fit the backbone.
    """
    state = _cleaned(read_state(path))
    stem = state.get("encoder.model.patch_embed.proj.weight")
    if stem is None or stem.ndim != 4:
        raise CheckpointError(f"{path} is no released classifier: it has no encoder.model.patch_embed.proj.weight")
    try:
        spec = _spec(state, stem, region_size)
    except KeyError as error:
        raise CheckpointError(f"{path} is no released classifier: it has no {error.args[0]}") from error
    except (IndexError, ValueError) as error:  # of a tensor with fewer axes
        raise CheckpointError(f"{path} is no released classifier: a tensor of it has another form") from error
    model = build_from_spec(spec)
    load_weights(model, _renamed(state, model), str(path))
    return model.eval()


class UpstreamClassifier(nn.Module):
    """A released classifier as its authors call it: an image ``(B, 3, H, W)`` → logits ``(B, classes)``.

    Attributes:
        model: The model.
    """

    def __init__(self, model: XT) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """Classify ``(B, C, H, W)``, normalised: ``(B, classes)``."""
        logits: Tensor = self.model(image)["label"]
        return logits


def load_upstream(path: str | Path, region_size: int = 256) -> UpstreamClassifier:
    """Load a released checkpoint as a module that returns logits; arguments and errors of :func:`read_upstream`."""
    return UpstreamClassifier(read_upstream(Path(path), region_size))


def _cleaned(state: Mapping[str, Tensor]) -> State:
    """Names without what saving added; beside a ``state_dict.`` nothing else counts."""
    wrapped = {key.removeprefix("state_dict."): value for key, value in state.items() if key.startswith("state_dict.")}
    return {key.removeprefix("module.").removeprefix("_orig_mod."): value for key, value in (wrapped or state).items()}


def _spec(state: State, stem: Tensor, region_size: int) -> dict[str, Any]:
    encoder = {"in_chans": stem.shape[1], "region_size": region_size, **_swin(state, stem)}
    parts: dict[str, Any] = {"region_encoder": {"class_path": "TimmFeatures", "init_args": encoder}}
    if "decoder.input_proj.weight" in state:
        return parts | {
            "context": _context(state),
            "context_dim": state["decoder.input_proj.weight"].shape[0],
            "decoder": {"class_path": "ClassToken", "init_args": {}},
            "heads": {"label": state["decoder.cls.1.weight"].shape[0]},
        }
    hidden, *_, last = (state[name] for name in _head(state))
    return parts | {
        "context": {"class_path": "Identity", "init_args": {}},
        "context_dim": hidden.shape[1],
        "decoder": {"class_path": "Pooled", "init_args": {"expand": hidden.shape[0] // hidden.shape[1]}},
        "heads": {"label": last.shape[0]},
        "positions": False,
    }


def _swin(state: State, stem: Tensor) -> dict[str, Any]:
    depths = tuple(len(set(_numbers(state, rf"encoder\.model\.layers_{i}\.blocks\.(\d+)\."))) for i in range(4))
    scale = "encoder.model.layers_{}.blocks.0.attn.logit_scale"
    heads = tuple(state[scale.format(i)].shape[0] for i in range(4))
    preset = PRESETS_BY_SIZES.get((stem.shape[0], depths, heads))
    if preset is not None:
        return {"name": preset}
    sizes = {"embed_dim": stem.shape[0], "depths": depths, "num_heads": heads, "window_size": WINDOW}
    return {"name": "swinv2_t", "model_args": sizes}


def _context(state: State) -> dict[str, Any]:
    depth = len(set(_numbers(state, r"decoder\.layers\.(\d+)\.")))
    layer = "decoder.layers.0."
    if f"{layer}attn.qkv.weight" in state:
        ratio = state[f"{layer}mlp.gate_proj.weight"].shape[0] / state[f"{layer}mlp.gate_proj.weight"].shape[1]
        sizes: dict[str, Any] = {"depth": depth, "mlp_ratio": ratio, "causal": True, "taper": False}
        return {"class_path": "Hyper", "init_args": sizes}
    inner, d_state = state[f"{layer}mixer.A_log"].shape
    dim = state[f"{layer}norm.weight"].shape[0]
    taps = state[f"{layer}mixer.conv1d.weight"].shape[-1]
    return {
        "class_path": "Mamba",
        "init_args": {"depth": depth, "d_state": d_state, "d_conv": taps, "expand": inner // dim},
    }


def _numbers(state: Iterable[str], pattern: str) -> list[int]:
    return [int(found[1]) for found in (re.match(pattern, key) for key in state) if found]


def _head(state: State) -> list[str]:
    """Names of the head without context: Linear, LayerNorm, Linear, in their order, whatever they are called.

    Raises:
        KeyError: If the tensors beside the encoder's are not those.
    """
    names = [key for key in state if not key.startswith("encoder.")]
    shapes = [tuple(state[name].shape) for name in names]
    if [len(shape) for shape in shapes] == [2, 1, 1, 1, 2, 1]:
        (wide, _), (classes, width) = shapes[0], shapes[4]
        if wide == width and shapes[1:4] == [(wide,)] * 3 and shapes[5] == (classes,):
            return names
    raise KeyError("decoder.input_proj.weight, nor the six tensors of the head without context")


def _renamed(state: State, model: XT) -> State:
    if "decoder.input_proj.weight" not in state:
        own = ["decoder.layers.0.weight", "decoder.layers.0.bias", "decoder.layers.2.weight", "decoder.layers.2.bias"]
        names = dict(zip(_head(state), [*own, "heads.label.weight", "heads.label.bias"], strict=True))
        width = model.context.input_proj.in_features
        same = {"context.input_proj.weight": torch.eye(width), "context.input_proj.bias": torch.zeros(width)}
        return {names.get(key) or _rename(key): value for key, value in state.items()} | same
    return {_rename(key): value for key, value in state.items()}


def _rename(key: str) -> str:
    for old, new in RENAMES.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key  # has no place, which loading says
