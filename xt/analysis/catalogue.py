"""All classes that a config can name, and what is broken among them."""

import importlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass

from xt import plugins
from xt.builtin_names import BUILTINS
from xt.errors import PluginError
from xt.models.context.base import ContextEncoder, RecurrentContextEncoder, SequentialContextEncoder

BASES = {
    "region_encoders": "xt.models.region.base:RegionEncoder",
    "context_encoders": "xt.models.context.base:ContextEncoder",
    "decoders": "xt.models.decoders.base:Decoder",
    "losses": "xt.losses.base:TileLoss",
    "tasks": "xt.tasks.base:Task",
    "data_modules": "xt.data.base:DataModule",
}
"""Kind → class that all of it derive from."""
STREAMING = {SequentialContextEncoder: "passes", RecurrentContextEncoder: "segments", ContextEncoder: "whole"}
"""Contract → how an encoder takes a scene: layer by layer along the tokens, region by region, or all at once."""


@dataclass(frozen=True)
class Listed:
    """A class that was found.

    Attributes:
        kind: One of :data:`~xt.builtin_names.BUILTINS`, or ``plugins`` for a module that cannot be imported.
        name: Short name.
        origin: Where it comes from: ``built-in``, ``package NAME VERSION`` or ``module NAME``.
        family: What a context encoder is a kind of; empty for others.
        cost: Class of cost of a context encoder; empty for others.
        streaming: Of :data:`STREAMING`; empty for others.
        broken: Why it cannot be used, in one line; empty if it can.
    """

    kind: str
    name: str
    origin: str
    family: str = ""
    cost: str = ""
    streaming: str = ""
    broken: str = ""


def catalogue(modules: Sequence[str] = ()) -> list[Listed]:
    """Import all classes and describe them, by kind and name.

    Args:
        modules: Register classes when they are imported.
    """
    broken = [each for each in map(_import, modules) if each is not None]
    return [_describe(kind, name) for kind in BUILTINS for name in plugins.names(kind)] + broken


def _import(module: str) -> Listed | None:
    try:
        plugins.load_modules([module])
    except PluginError as error:
        return Listed("plugins", module, "--plugins", broken=str(error))
    # Code from elsewhere may raise anything when it is imported, and what is broken must be named.
    except Exception as error:
        return Listed("plugins", module, "--plugins", broken=f"{type(error).__name__}: {error}".splitlines()[0])
    return None


def _describe(kind: str, name: str) -> Listed:
    origin = " and ".join(plugins.origins(kind, name))
    try:
        cls = plugins.resolve(kind, name)
    except PluginError as error:
        return Listed(kind, name, origin, broken=str(error))
    module, _, attribute = BASES[kind].partition(":")
    base = getattr(importlib.import_module(module), attribute)
    if not issubclass(cls, base):
        return Listed(kind, name, origin, broken=f"is no subclass of {base.__name__} ({module}); derive it from that")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
        return Listed(kind, name, origin, broken=f"does not define {missing}; {base.__name__} ({module}) asks for it")
    if not issubclass(cls, ContextEncoder):
        return Listed(kind, name, origin)
    streaming = next(word for contract, word in STREAMING.items() if issubclass(cls, contract))
    return Listed(kind, name, origin, cls.family, cls.cost, streaming)
