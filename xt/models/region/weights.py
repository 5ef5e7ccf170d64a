"""Weights of other projects for timm's backbones: placed by name, or by order and shape; all of them or none."""

import inspect
import logging
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import timm
import torch
from torch import Tensor, nn

from xt.errors import CheckpointError

_log = logging.getLogger(__name__)
State = dict[str, Tensor]
ENCODER, DECODER = re.compile(r"(^|\.)encoder\."), re.compile(r"(^|\.)decoder\.")
COUNT = "num_batches_tracked"


def for_timm(state: State, name: str, in_chans: int, model_args: Mapping[str, Any], source: str) -> State:
    """Give a state dict the names of a timm model, and its first layer the channels of the image.

    Names of timm, and those that timm knows how to change, stay. Others are taken in their order if every tensor has
    the shape of timm's in its place; the classifier's, which come last, may be missing, or all behind the last map, or
    counts of batches. Of an encoder and a decoder the encoder is taken. Where batch normalisation was folded into the
    convolutions, the layers of it become what adds the biases. A first layer of other channels is repeated over the
    image's and scaled, as timm does with three.

    Args:
        state: Of a backbone, with or without its classifier.
        name: A timm model name.
        in_chans: Channels of the image.
        model_args: Further arguments of the timm model.
        source: File, for messages.

    Returns:
        All that the backbone has, by timm's names. Timm is not to adapt its first layer again.

    Raises:
        CheckpointError: If a tensor has no place or a place no tensor; names the first ones.
    """
    with torch.device("meta"):
        plain = timm.create_model(name.split(".")[0], **{"features_only": False, **model_args})
    state = _of_encoder(state, source)
    named = _completed(state, plain)
    own = {key: value for key, value in plain.state_dict().items() if not _is_classifier(key, plain)}
    if len(own.keys() & _known(named, plain).keys()) * 2 >= len(own):
        found = _by_name(named, plain, own, source)
    else:
        with torch.device("meta"):
            backbone = timm.create_model(name.split(".")[0], **{**model_args, "features_only": True})
        found = _by_order(state, plain, backbone, source)
        _log.warning("%s: names are not timm's; %d tensors were placed by order and shape", source, len(found))
    config: Any = plain.default_cfg
    stems = config["first_conv"]
    for stem in (stems,) if isinstance(stems, str) else stems or ():
        key = f"{stem}.weight"
        if key in found:
            found[key] = _with_channels(found[key], in_chans)
    return found


def _by_name(state: State, plain: nn.Module, own: State, source: str) -> State:
    known = _known(state, plain)
    missing = [key for key in own if key not in known]
    unexpected = [key for key in known if key not in own and not _is_classifier(key, plain)]
    if missing or unexpected:
        said = [
            f"{len(keys)} {what}: {', '.join(keys[:5])}"
            for what, keys in (("missing", missing), ("without a place", unexpected))
            if keys
        ]
        raise CheckpointError(f"{source} does not fit the backbone: {'; '.join(said)}")
    return dict(state)


def _by_order(state: State, plain: nn.Module, backbone: nn.Module, source: str) -> State:
    every = plain.state_dict()
    layouts = [each for each in _layouts(plain, backbone) if len(each) == len(state)]
    if not layouts:
        raise CheckpointError(
            f"{source} does not fit the backbone: its names are not timm's, and it has {len(state)} tensors instead of "
            f"{len(every)}"
        )
    wrong = {id(keys): _misfit(state, plain, keys) for keys in layouts}
    keys = next((keys for keys in layouts if wrong[id(keys)] is None), layouts[0])
    if (number := wrong[id(keys)]) is not None:
        given, value = list(state.items())[number]
        raise CheckpointError(
            f"{source} does not fit the backbone: its names are not timm's, and tensor {number + 1}, {given}, is "
            f"{tuple(value.shape)} instead of {tuple(every[keys[number]].shape)} ({keys[number]})"
        )
    found = dict(zip(keys, state.values(), strict=True))
    found = {
        key: value for key, value in found.items() if value.shape == every[key].shape or not _is_classifier(key, plain)
    }
    return found | _unfolded(found, plain)


def _layouts(plain: nn.Module, backbone: nn.Module) -> list[list[str]]:
    """Orders in which the tensors of the backbone may come: with all of the model, or without what files leave out."""
    norms = {f"{name}.{part}" for name, _ in _batch_norms(plain) for part in ("weight", "running_mean", "running_var")}
    kept = {key.replace(".", "_") for key in backbone.state_dict()}  # timm joins names of stages so
    every = list(plain.state_dict())
    parts = [
        every,
        [key for key in every if not _is_classifier(key, plain)],
        [key for key in every if key.replace(".", "_") in kept],
    ]
    counted = [*parts, *([key for key in keys if not key.endswith(COUNT)] for keys in parts)]
    return [*counted, *([key for key in keys if key not in norms] for keys in counted[len(parts) :] if norms)]


def _misfit(state: State, plain: nn.Module, keys: list[str]) -> int | None:
    """The first tensor that has another shape than its place, if any."""
    places = plain.state_dict()
    for number, (key, value) in enumerate(zip(keys, state.values(), strict=True)):
        place = places[key]
        stem = number == 0 and value.ndim == place.ndim == 4 and value.shape[0] == place.shape[0]
        fits = value.shape == place.shape or (stem and value.shape[2:] == place.shape[2:])
        if not fits and not _is_classifier(key, plain):  # which may be of other classes
            return number
    return None


def _unfolded(found: State, plain: nn.Module) -> State:
    """What batch norms need that were folded into the convolutions before them, and counts of batches."""
    more: State = {}
    for name, norm in _batch_norms(plain):
        bias = found.get(f"{name}.bias")
        if bias is None:
            continue
        more.setdefault(f"{name}.{COUNT}", torch.tensor(0))
        if f"{name}.weight" not in found:
            more[f"{name}.weight"], more[f"{name}.running_mean"] = torch.ones_like(bias), torch.zeros_like(bias)
            more[f"{name}.running_var"] = torch.full_like(bias, 1 - norm.eps)
    return {key: value for key, value in more.items() if key not in found}


def _batch_norms(plain: nn.Module) -> list[tuple[str, nn.BatchNorm2d]]:
    return [(name, each) for name, each in plain.named_modules() if isinstance(each, nn.BatchNorm2d)]


def _of_encoder(state: State, source: str) -> State:
    """Leave out the decoder of a segmentation model, and what stands beside both."""
    inside = {key: re.split(r"(?:^|\.)encoder\.", key, maxsplit=1)[1] for key in state if ENCODER.search(key)}
    if not inside or not any(DECODER.search(key) for key in state):
        return state
    rest = [key for key in state if key not in inside]
    _log.warning("%s: %d tensors beside the encoder are not used: %s …", source, len(rest), rest[0])
    return {short: state[key] for key, short in inside.items()}


def _completed(state: State, plain: nn.Module) -> State:
    """Give batch norms of timm's names the counts of batches that a file left out."""
    names = [name for name, _ in _batch_norms(plain) if f"{name}.weight" in state]
    return {**{f"{name}.{COUNT}": torch.tensor(0) for name in names}, **state}


def _known(state: State, plain: nn.Module) -> State:
    """The state with the changes that timm makes to names of official checkpoints."""
    change = getattr(inspect.getmodule(type(plain)), "checkpoint_filter_fn", None)
    if change is not None:
        with suppress(Exception):  # of another form than it expects
            changed = change(dict(state), plain)
            return dict(changed)
    return state


def _is_classifier(key: str, plain: nn.Module) -> bool:
    config: Any = plain.default_cfg
    names = config.get("classifier") or ()
    return any(key.startswith(f"{each}.") for each in ((names,) if isinstance(names, str) else names))


def _with_channels(weight: Tensor, in_chans: int) -> Tensor:
    has = weight.shape[1]
    if has == in_chans:
        return weight
    repeated = weight.float().repeat(1, math.ceil(in_chans / has), 1, 1)[:, :in_chans]
    return (repeated * (has / in_chans)).to(weight.dtype)
