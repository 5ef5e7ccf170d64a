"""Names of classes: built-in ones, and those that a user's package or module adds.

Built-in classes are named by string and imported on first use, so that asking for the names costs nothing.
A plug-in is found in two ways: an installed package declares an entry point in the group ``xt.<kind>``, or a
config lists modules under ``plugins:``, each of which registers classes when it is imported::

    @xt.plugins.register("context_encoders")
    class MyContext(ContextEncoder): ...

A saved model holds names only and is resolved here; nothing in a file can cause an import.
"""

import functools
import importlib
import inspect
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, TypeVar

from xt.errors import PluginError, nearest

BUILTINS: dict[str, dict[str, str]] = {
    "region_encoders": {
        "TimmFeatures": "xt.models.region.timm_features:TimmFeatures",
    },
    "context_encoders": {
        "FullAttention": "xt.models.context.full_attention:FullAttention",
        "Hyper": "xt.models.context.hyper:Hyper",
        "Identity": "xt.models.context.identity:Identity",
        "Mamba": "xt.models.context.mamba:Mamba",
        "TransformerXL": "xt.models.context.transformer_xl:TransformerXL",
    },
    "decoders": {
        "ClassToken": "xt.models.decoders.pooled:ClassToken",
        "Pooled": "xt.models.decoders.pooled:Pooled",
        "UNet": "xt.models.decoders.unet:UNet",
    },
    "losses": {
        "DetectionLoss": "xt.losses.detection:DetectionLoss",
        "PaperDetectionLoss": "xt.losses.detection:PaperDetectionLoss",
        "SegmentationLoss": "xt.losses.segmentation:SegmentationLoss",
    },
    "tasks": {
        "ContextTraining": "xt.training.context:ContextTraining",
        "ImageClassification": "xt.training.classification:ImageClassification",
        "PointDetection": "xt.training.detection:PointDetection",
        "SemanticSegmentation": "xt.training.segmentation:SemanticSegmentation",
    },
    "data_modules": {
        "INaturalistData": "xt.data.inaturalist:INaturalistData",
        "ImageFolderData": "xt.data.image_folder:ImageFolderData",
        "TokenData": "xt.data.tokens:TokenData",
        "RasterPairsData": "xt.data.raster_pairs:RasterPairsData",
        "XView3Data": "xt.data.xview3:XView3Data",
    },
}
"""kind → short name → ``module:Class``."""

_registered: dict[str, dict[str, type]] = {kind: {} for kind in BUILTINS}
T = TypeVar("T", bound=type)


def register(kind: str, name: str | None = None) -> Callable[[T], T]:
    """Class decorator that makes a class known by a short name.

    Args:
        kind: One of the keys of :data:`BUILTINS`, such as ``"context_encoders"``.
        name: Short name; the class's own by default.

    Raises:
        PluginError: If the kind is unknown or the name is taken by another class.
    """
    _check_kind(kind)

    def decorate(cls: T) -> T:
        key = name or cls.__name__
        taken = _registered[kind].get(key)
        same = taken is not None and taken.__qualname__ == cls.__qualname__
        if key in BUILTINS[kind] or (taken is not None and not same):
            raise PluginError(f"plug-in name {key!r} in {kind} is taken; give another: register({kind!r}, name=...)")
        _registered[kind][key] = cls
        return cls

    return decorate


def names(kind: str) -> list[str]:
    """Sorted short names of a kind: built-in, registered and installed. Imports no class."""
    _check_kind(kind)
    return sorted({*BUILTINS[kind], *_registered[kind], *_installed(kind)})


def resolve(kind: str, name: str) -> type:
    """Return the class with a short name, importing it if needed.

    Raises:
        PluginError: If no class has that name; the message gives the nearest one.
    """
    _check_kind(kind)
    if name in _registered[kind]:
        return _registered[kind][name]
    if name in BUILTINS[kind]:
        module, _, attribute = BUILTINS[kind][name].partition(":")
        found: type = getattr(importlib.import_module(module), attribute)
        return found
    if name in _installed(kind):
        loaded: type = _installed(kind)[name].load()
        return loaded
    raise PluginError(f"no {kind[:-1].replace('_', ' ')} is named {name!r}{nearest(name, names(kind))}")


def load_modules(modules: list[str]) -> None:
    """Import the modules that a config lists under ``plugins:`` so that their classes register.

    Raises:
        PluginError: If a module cannot be found.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is not None and not f"{module}.".startswith(f"{error.name}."):
                raise
            raise PluginError(
                f"plugins: no module named {module!r}; install it or add its folder to PYTHONPATH"
            ) from error


def short_name(obj: object) -> str:
    """Return the short name under which an instance's class is known.

    Raises:
        PluginError: If the class is not registered, so that a saved model could not name it.
    """
    cls = type(obj)
    for registered in _registered.values():
        for key, value in registered.items():
            if value is cls:
                return key
    path = f"{cls.__module__}:{cls.__qualname__}"
    for builtin in BUILTINS.values():
        for key, value_path in builtin.items():
            if value_path == path:
                return key
    for kind in BUILTINS:
        for key, entry in _installed(kind).items():
            if entry.value == path:
                return key
    raise PluginError(f"class {cls.__qualname__} is not registered; decorate it with @xt.plugins.register(kind)")


class Configurable:
    """Remembers the arguments an instance was built with, so that a model can be saved as names and numbers.

    Subclasses write plain constructors; ``spec()`` then gives ``{"class_path": short name, "init_args": {...}}``
    with defaults filled in.
    """

    _init_args: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" not in cls.__dict__:
            return
        original = cls.__init__
        signature = inspect.signature(original)

        @functools.wraps(original)
        def recording(self: Any, *args: Any, **kw: Any) -> None:
            # Only the outermost constructor records: type(self).__init__, not a base class's.
            if type(self).__init__ is recording:
                bound = signature.bind(self, *args, **kw)
                bound.apply_defaults()
                arguments = dict(bound.arguments)
                arguments.pop("self")
                object.__setattr__(self, "_init_args", arguments)
            original(self, *args, **kw)

        cls.__init__ = recording  # type: ignore[method-assign]

    def spec(self) -> dict[str, Any]:
        """Return ``{"class_path": short name, "init_args": arguments with defaults}``."""
        return {"class_path": short_name(self), "init_args": dict(self._init_args)}


def build(kind: str, spec: dict[str, Any], **given: Any) -> Any:
    """Build a class from ``{"class_path": short name, "init_args": {...}}``.

    Args:
        kind: One of the keys of :data:`BUILTINS`.
        spec: Names and numbers only.
        **given: Arguments that the caller supplies over those of the spec.

    Raises:
        PluginError: If the name or an argument is unknown; the message gives the nearest one.
    """
    cls = resolve(kind, spec["class_path"])
    arguments = {**spec.get("init_args", {}), **given}
    known = [p for p in inspect.signature(cls).parameters if p != "self"]
    for key in arguments:
        if key not in known:
            raise PluginError(f"{spec['class_path']} takes no argument {key!r}{nearest(key, known)}")
    return cls(**arguments)


@functools.cache
def _installed(kind: str) -> dict[str, Any]:
    return {entry.name: entry for entry in entry_points(group=f"xt.{kind}")}


def _check_kind(kind: str) -> None:
    if kind not in BUILTINS:
        raise PluginError(f"no kind of plug-in is named {kind!r}{nearest(kind, BUILTINS)}")
