"""Brings context encoders to one number of parameters, so that what they learn can be compared."""

import functools
import inspect
import math
import warnings
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

from xt import plugins
from xt.analysis.bench import contexts
from xt.analysis.bench.settings import Settings
from xt.errors import XTWarning

TOLERANCE = 0.1
"""Share of the parameters by which a sized encoder may differ."""
DEPTHS = range(2, 17)
"""From 2 on: of one layer, a scan would read one way only."""


@dataclass(frozen=True)
class Knob:
    """An argument on which the parameters depend smoothly.

    Attributes:
        name: Of the argument.
        step: Values are multiples of it.
        most: Times the step.
    """

    name: str
    step: float
    most: int

    def values(self) -> list[float]:
        """What may be given, ascending."""
        return [self.step * index for index in range(1, self.most + 1)]


KNOBS = (Knob("mlp_ratio", 0.125, 64), Knob("d_state", 1, 128))
"""The first that an encoder has is turned; others keep what is given, or their defaults."""


def sized(text: str, parameters: int, settings: Settings) -> str:
    """Give an encoder the depth and width at which it has about so many parameters, as near as can be to its own.

    What ``text`` says stays; an encoder without any of these arguments, or without parameters, stays as it is.

    Args:
        text: As :func:`xt.analysis.bench.contexts.parse` reads it.
        parameters: How many it shall have.
        settings: Channels of a token.

    Returns:
        The text with the arguments that were found, or the nearest where nothing is within :data:`TOLERANCE`.
    """
    if not count(text, settings):
        return text
    best, lowest = text, _cost(text, text, parameters, settings)
    for candidate in _candidates(text, parameters, settings):
        cost = _cost(candidate, text, parameters, settings)
        if cost < lowest:
            best, lowest = candidate, cost
    has = count(best, settings)
    if abs(has / parameters - 1) > TOLERANCE:
        text = f"{best} has {has:,} parameters; by depth and width it comes no nearer to {parameters:,}"
        warnings.warn(text, XTWarning, stacklevel=2)
    return best


@functools.lru_cache(maxsize=1024)
def count(text: str, settings: Settings) -> int:
    """Parameters of an encoder."""
    return sum(each.numel() for each in contexts.build(text, settings).parameters())


def _candidates(text: str, parameters: int, settings: Settings) -> Iterator[str]:
    given, defaults = contexts.parse(text)["init_args"], _defaults(text)
    knob = next((each for each in KNOBS if each.name in defaults and each.name not in given), None)
    depths = DEPTHS if "depth" in defaults and "depth" not in given else (None,)
    for depth in depths:
        deep = text if depth is None else _with(text, "depth", depth)
        yield deep
        turned = [_with(deep, knob.name, value) for value in knob.values()] if knob else [deep]
        if count(turned[0], settings) > parameters:  # as all that are deeper
            yield turned[0]
            return
        least = bisect_left(turned, parameters, key=lambda each: count(each, settings))
        yield from turned[max(0, least - 1) : least + 1]


def _cost(candidate: str, text: str, parameters: int, settings: Settings) -> tuple[float, float]:
    """How far from the parameters beyond what is allowed, then how far from the arguments that it has by itself."""
    off = abs(count(candidate, settings) / parameters - 1)
    own = {**_defaults(text), **contexts.parse(text)["init_args"]}
    changed = [
        abs(math.log(value / own[key]))
        for key, value in contexts.parse(candidate)["init_args"].items()
        if value != own[key] and isinstance(own[key], int | float)
    ]
    return max(0.0, off - TOLERANCE / 2), sum(changed)


def _defaults(text: str) -> dict[str, object]:
    signature = inspect.signature(plugins.resolve("context_encoders", contexts.parse(text)["class_path"]))
    return {key: each.default for key, each in signature.parameters.items()}


def _with(text: str, key: str, value: float) -> str:
    return f"{text}{',' if ':' in text else ':'}{key}={value:g}"
