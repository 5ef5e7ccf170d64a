"""Weights of other projects for timm's backbones: placed by name, or by order and shape; all of them or none."""

import inspect
import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import timm
import torch
from torch import Tensor, nn

from xt.errors import CheckpointError

_log = logging.getLogger(__name__)
State = dict[str, Tensor]


def for_timm(state: State, name: str, in_chans: int, model_args: Mapping[str, Any], source: str) -> State:
    """Give a state dict the names of a timm model, and its first layer the channels of the image.

    Names of timm, and those that timm knows how to change, stay. Others are taken in their order if every tensor has
    the shape of timm's in its place; the classifier's, which come last, may be missing. A first layer of other channels
    is repeated over the image's and scaled, as timm does with three.

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
    own = {key: value for key, value in plain.state_dict().items() if not _is_classifier(key, plain)}
    if len(own.keys() & _known(state, plain).keys()) * 2 >= len(own):
        found = _by_name(state, plain, own, source)
    else:
        found = _by_order(state, plain, source)
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


def _by_order(state: State, plain: nn.Module, source: str) -> State:
    places = list(plain.state_dict().items())
    if len(state) < len(places):
        places = [(key, value) for key, value in places if not _is_classifier(key, plain)]
    if len(state) != len(places):
        raise CheckpointError(
            f"{source} does not fit the backbone: its names are not timm's, and it has {len(state)} tensors instead of "
            f"{len(places)}"
        )
    found = {}
    for number, ((key, place), (given, value)) in enumerate(zip(places, state.items(), strict=True)):
        stem = number == 0 and value.ndim == place.ndim == 4 and value.shape[0] == place.shape[0]
        if value.shape != place.shape and not (stem and value.shape[2:] == place.shape[2:]):
            if _is_classifier(key, plain):
                continue  # of other classes
            raise CheckpointError(
                f"{source} does not fit the backbone: its names are not timm's, and tensor {number + 1}, {given}, is "
                f"{tuple(value.shape)} instead of {tuple(place.shape)} ({key})"
            )
        found[key] = value
    return found


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
