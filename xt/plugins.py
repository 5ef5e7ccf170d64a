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
import logging
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, TypeVar

from xt.builtin_names import BUILTINS
from xt.errors import BrokenPluginError, PluginError, nearest

_log = logging.getLogger(__name__)

_registered: dict[str, dict[str, type]] = {kind: {} for kind in BUILTINS}
T = TypeVar("T", bound=type)

SUPPLIED = {"region_encoders": "in_chans", "context_encoders": "dim", "decoders": "inputs"}
"""What the model gives to the constructors of its parts."""


def register(kind: str, name: str | None = None) -> Callable[[T], T]:
    """Class decorator that makes a class known by a short name.

    Args:
        kind: One of the keys of :data:`~xt.builtin_names.BUILTINS`, such as ``"context_encoders"``.
        name: Short name; the class's own by default.

    Raises:
        PluginError: If the kind is unknown, the name is taken by another class, or the constructor does not take what
            the model supplies.
    """
    _check_kind(kind)

    def decorate(cls: T) -> T:
        key = name or cls.__name__
        taken = BUILTINS[kind].get(key)
        if taken is None and key in _registered[kind]:
            taken = _path(_registered[kind][key])
        # A module that is imported anew brings the same class again, which takes the place of the old one.
        if taken not in (None, _path(cls)):
            raise PluginError(
                f"name {key!r} in {kind} is taken by {taken}; give {_path(cls)} another: register({kind!r}, name=...)"
            )
        given, takes = SUPPLIED.get(kind), inspect.signature(cls).parameters.values()
        if given and not any(each.name == given or each.kind is inspect.Parameter.VAR_KEYWORD for each in takes):
            raise PluginError(f"{cls.__name__}: its constructor has no argument {given}, which the model supplies")
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
        PluginError: If no class has that name, with the nearest one; or if two have it, with both.
        BrokenPluginError: If the package that has it cannot be imported.
    """
    _check_kind(kind)
    found: dict[type, str] = {}
    if name in BUILTINS[kind]:
        module, _, attribute = BUILTINS[kind][name].partition(":")
        found[getattr(importlib.import_module(module), attribute)] = BUILTINS[kind][name]
    for entry in _installed(kind).get(name, ()):
        found[_load(kind, entry)] = entry.value
    if name in _registered[kind]:
        found[_registered[kind][name]] = _path(_registered[kind][name])
    if len(found) > 1:
        raise PluginError(f"name {name!r} in {kind} is that of {' and '.join(found.values())}; rename or remove one")
    if not found:
        what = f"no {kind[:-1].replace('_', ' ')} is named {name!r}"
        raise PluginError(f"{what}; a plug-in's module is imported by --plugins MODULE{nearest(name, names(kind))}")
    return next(iter(found))


def working(kind: str) -> dict[str, type]:
    """Return the classes of a kind by name. An installed one that is broken is left out with a warning: others work.

    Raises:
        PluginError: If two have one name.
    """
    classes = {}
    for name in names(kind):
        try:
            classes[name] = resolve(kind, name)
        except BrokenPluginError as error:
            _log.warning("left out: %s", error)
    return classes


def origins(kind: str, name: str) -> list[str]:
    """Say where the classes of a name come from: ``built-in``, ``package NAME VERSION`` or ``module NAME``."""
    _check_kind(kind)
    found = ["built-in"] if name in BUILTINS[kind] else []
    entries = _installed(kind).get(name, ())
    found += [f"package {entry.dist.name} {entry.dist.version}" for entry in entries]
    registered = _registered[kind].get(name)
    # An installed class may register itself too.
    if registered is not None and _path(registered) not in [entry.value for entry in entries]:
        found.append(f"module {registered.__module__}")
    return found


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
    path = _path(type(obj))
    for registered in _registered.values():
        for key, value in registered.items():
            if _path(value) == path:
                return key
    for builtin in BUILTINS.values():
        for key, value_path in builtin.items():
            if value_path == path:
                return key
    for kind in BUILTINS:
        for key, entries in _installed(kind).items():
            if any(entry.value == path for entry in entries):
                return key
    raise PluginError(f"class {type(obj).__qualname__} is not registered; decorate it with @xt.plugins.register(kind)")


class Configurable:
    """Remembers the arguments an instance was built with, so that a model can be saved as names and numbers.

    Subclasses write plain constructors; ``spec()`` then gives ``{"class_path": short name, "init_args": {...}}``
    with defaults filled in. What a constructor takes by ``**kwargs`` stands there under its own name. Values that have
    no name (``*args``, positional-only) cannot be saved, and are refused when the instance is built.
    """

    _init_args: dict[str, Any] = {}  # noqa: RUF012 - replaced, never changed

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        original = cls.__init__
        signature = inspect.signature(original)
        named = [p for p in list(signature.parameters.values())[1:] if p.kind not in _VARIADIC]
        # A constructor from elsewhere without named arguments is that of object or nn.Module, which take none.
        if hasattr(original, "records") or ("__init__" not in cls.__dict__ and not named):
            return

        @functools.wraps(original)
        def recording(self: Any, /, *args: Any, **kw: Any) -> None:
            # Only the outermost constructor records: type(self).__init__, not a base class's.
            if type(self).__init__ is recording:
                object.__setattr__(self, "_init_args", _arguments(type(self), signature, self, *args, **kw))
            hasty = f"{type(self).__name__}: its constructor must begin with super().__init__()"
            try:
                original(self, *args, **kw)
            except AttributeError as error:
                if "before Module.__init__() call" in str(error):
                    raise PluginError(hasty) from error
                raise
            if hasattr(type(self), "named_modules") and "_modules" not in vars(self):  # a module of PyTorch
                raise PluginError(hasty)

        recording.records = True  # type: ignore[attr-defined]
        cls.__init__ = recording  # type: ignore[method-assign, assignment]

    def spec(self) -> dict[str, Any]:
        """Return ``{"class_path": short name, "init_args": arguments with defaults}``."""
        return {"class_path": short_name(self), "init_args": dict(self._init_args)}


def build(kind: str, spec: dict[str, Any], **given: Any) -> Any:
    """Build a class from ``{"class_path": short name, "init_args": {...}}``.

    Args:
        kind: One of the keys of :data:`~xt.builtin_names.BUILTINS`.
        spec: Names and numbers only.
        **given: Arguments that the caller supplies over those of the spec.

    Raises:
        PluginError: If the name or an argument is unknown; the message gives the nearest one.
    """
    name = spec["class_path"]
    cls = resolve(kind, name)
    arguments = {**spec.get("init_args", {}), **given}
    parameters = inspect.signature(cls).parameters.values()
    known = [p.name for p in parameters if p.kind not in _VARIADIC]
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    for key in arguments:
        if key not in known and not takes_any:
            raise PluginError(f"{name} takes no argument {key!r}{nearest(key, known)}")
    try:
        return cls(**arguments)
    except TypeError as error:
        # What it passes on by **kwargs, another constructor judges.
        if takes_any and "unexpected keyword argument" in str(error):
            raise PluginError(f"{name}: {error}; it takes {', '.join(known)} and passes others on") from error
        raise


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _arguments(cls: type, signature: inspect.Signature, /, *args: Any, **kwargs: Any) -> dict[str, Any]:
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    arguments: dict[str, Any] = {}
    for index, (key, value) in enumerate(bound.arguments.items()):
        kind = signature.parameters[key].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            arguments |= value
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            if len(value) > (index == 0):
                raise PluginError(f"{_path(cls)}: *{key} cannot be saved by name; give its constructor named arguments")
        elif index and kind is inspect.Parameter.POSITIONAL_ONLY:
            raise PluginError(f"{_path(cls)}: {key} is positional-only and cannot be saved by name; take out the '/'")
        elif index:
            arguments[key] = value
    return arguments


def _path(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _load(kind: str, entry: Any) -> type:
    what = f"{kind[:-1].replace('_', ' ')} {entry.name!r}, {entry.value} of package {entry.dist.name},"
    try:
        cls = entry.load()
    # Code from elsewhere may raise anything when it is imported, and what is broken must be named.
    except Exception as error:
        said = next(iter(str(error).splitlines()), "")
        raise BrokenPluginError(
            f"{what} cannot be imported: {type(error).__name__}: {said}; mend or uninstall it"
        ) from error
    if not isinstance(cls, type):
        raise BrokenPluginError(f"{what} is no class; mend or uninstall it")
    return cls


@functools.cache
def _installed(kind: str) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for entry in entry_points(group=f"xt.{kind}"):
        found.setdefault(entry.name, []).append(entry)
    return found


def _check_kind(kind: str) -> None:
    if kind not in BUILTINS:
        raise PluginError(f"no kind of plug-in is named {kind!r}{nearest(kind, BUILTINS)}")
