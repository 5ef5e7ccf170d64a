import copy
import importlib
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from xt import plugins
from xt.errors import PluginError, nearest
from xt.plugins import Configurable
from xt.training import schema

KIND = "context_encoders"
PLAIN = "class Mine(Configurable):\n    def __init__(self, dim): ...\n"
UNCACHED = plugins._installed.__wrapped__


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plugins, "_registered", {kind: {} for kind in plugins.BUILTINS})


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a module that can be imported, and is forgotten after the test."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def module(name: str, decorator: str = f"@register({KIND!r})\n") -> None:
        (tmp_path / f"{name}.py").write_text(f"from xt.plugins import Configurable, register\n\n{decorator}{PLAIN}")
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, name, raising=False)

    return module


def test_builtin_names_resolve():
    for kind in plugins.BUILTINS:
        for name in plugins.BUILTINS[kind]:
            assert plugins.resolve(kind, name).__name__ == name


def test_unknown_names_and_arguments_give_the_nearest():
    with pytest.raises(PluginError, match=r"named 'Mambaa'.*--plugins MODULE; did you mean 'Mamba'"):
        plugins.resolve(KIND, "Mambaa")
    with pytest.raises(PluginError, match="'deph'; did you mean 'depth'"):
        plugins.build(KIND, {"class_path": "Mamba", "init_args": {"deph": 1}}, dim=16)
    with pytest.raises(PluginError, match="did you mean 'context_encoders'"):
        plugins.names("context_encoder")
    with pytest.raises(PluginError, match="no module named 'no_such_module'"):
        plugins.load_modules(["no_such_module"])
    assert nearest("zzz", ["a", "b"]) == "; known: a, b"


def test_a_module_that_lacks_another_is_not_said_to_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "plugin_lacking.py").write_text("import plugin_lack\n")
    with pytest.raises(ModuleNotFoundError, match="named 'plugin_lack'"):
        plugins.load_modules(["plugin_lacking"])
    with pytest.raises(PluginError, match=r"no module named 'plugin_none\.part'"):
        plugins.load_modules(["plugin_none.part"])


def test_a_built_in_name_cannot_be_taken():
    with pytest.raises(PluginError, match=r"'Mamba' in context_encoders is taken by xt.models.context.mamba:Mamba"):
        plugins.register(KIND, "Mamba")(type("Other", (), {}))


@pytest.mark.parametrize(
    ("kind", "given"), [("region_encoders", "in_chans"), ("context_encoders", "dim"), ("decoders", "inputs")]
)
def test_a_constructor_must_take_what_the_model_supplies(kind: str, given: str):
    class Narrow(nn.Module, plugins.Configurable):
        def __init__(self, width: int) -> None:
            super().__init__()

    with pytest.raises(
        PluginError, match=f"^Narrow: its constructor has no argument {given}, which the model supplies$"
    ):
        plugins.register(kind)(Narrow)
    assert "Narrow" not in plugins.names(kind)


def test_a_constructor_that_forgets_its_base_is_told():
    class Hasty(nn.Module, plugins.Configurable):
        def __init__(self, dim: int) -> None:
            self.layer = nn.Linear(dim, dim)

    class Idle(nn.Module, plugins.Configurable):
        def __init__(self, weight: float = 1.0) -> None:
            self.weight = weight

    for build in (lambda: Hasty(3), Idle):
        with pytest.raises(
            PluginError, match=r"^(Hasty|Idle): its constructor must begin with super\(\).__init__\(\)$"
        ):
            build()


def test_two_modules_with_one_name_are_refused_and_both_named(write):
    write("plugin_a")
    write("plugin_b")
    plugins.load_modules(["plugin_a"])
    with pytest.raises(PluginError, match=r"'Mine' .* taken by plugin_a:Mine; give plugin_b:Mine another"):
        plugins.load_modules(["plugin_b"])
    assert plugins.resolve(KIND, "Mine").__module__ == "plugin_a"


def test_the_same_module_may_be_imported_anew(write):
    write("plugin_a")
    plugins.load_modules(["plugin_a", "plugin_a"])
    old = plugins.build(KIND, {"class_path": "Mine"}, dim=1)
    module = importlib.reload(sys.modules["plugin_a"])
    assert plugins.resolve(KIND, "Mine") is module.Mine
    assert type(old) is not module.Mine
    assert plugins.short_name(old) == plugins.short_name(module.Mine(2)) == "Mine"


class Entry:
    def __init__(self, name: str, value: str) -> None:
        self.name, self.value = name, value
        self.dist = SimpleNamespace(name="my-package", version="1.0")

    def load(self) -> type:
        module, _, attribute = self.value.partition(":")
        return getattr(importlib.import_module(module), attribute)


def install(monkeypatch: pytest.MonkeyPatch, *entries: Entry) -> None:
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries if group == f"xt.{KIND}" else ())
    monkeypatch.setattr(plugins, "_installed", UNCACHED)


def test_installed_classes_with_one_name_are_refused_and_both_named(write, monkeypatch: pytest.MonkeyPatch):
    write("plugin_a", decorator="")
    write("plugin_b", decorator="")
    install(monkeypatch, Entry("Mine", "plugin_a:Mine"))
    assert plugins.names(KIND) == sorted([*plugins.BUILTINS[KIND], "Mine"])
    assert plugins.build(KIND, {"class_path": "Mine"}, dim=3).spec() == {"class_path": "Mine", "init_args": {"dim": 3}}
    install(monkeypatch, Entry("Mine", "plugin_a:Mine"), Entry("Mine", "plugin_b:Mine"))
    with pytest.raises(PluginError, match="that of plugin_a:Mine and plugin_b:Mine; rename or remove one"):
        plugins.resolve(KIND, "Mine")
    install(monkeypatch, Entry("Mamba", "plugin_a:Mine"))
    with pytest.raises(PluginError, match=r"that of xt.models.context.mamba:Mamba and plugin_a:Mine"):
        plugins.resolve(KIND, "Mamba")


def test_an_installed_class_may_register_itself_too(write, monkeypatch: pytest.MonkeyPatch):
    write("plugin_a")
    install(monkeypatch, Entry("Mine", "plugin_a:Mine"))
    assert plugins.resolve(KIND, "Mine") is plugins.resolve(KIND, "Mine")
    assert "Mine" in plugins._registered[KIND]
    assert plugins.origins(KIND, "Mine") == ["package my-package 1.0"]


def round_trip(cls: type, *args: Any, kind: str = KIND, **kwargs: Any) -> dict[str, Any]:
    plugins.register(kind, "Mine")(cls)
    spec = cls(*args, **kwargs).spec()
    again = plugins.build(kind, spec)
    assert again.spec() == spec
    assert type(again) is cls
    assert copy.deepcopy(again).spec() == spec
    return spec["init_args"]


class Base(Configurable):
    def __init__(self, dim: int, depth: int = 2) -> None:
        self.sizes = (dim, depth)


def test_arguments_are_remembered_with_defaults():
    assert round_trip(Base, 4) == {"dim": 4, "depth": 2}
    made = Base(4)
    made.spec()["init_args"].clear()
    assert made.spec()["init_args"] == {"dim": 4, "depth": 2}
    assert plugins.build(KIND, {"class_path": "Mine", "init_args": {"dim": 4, "depth": 7}}, dim=5).sizes == (5, 7)
    assert pickle.loads(pickle.dumps(Base(4))).spec()["init_args"] == {"dim": 4, "depth": 2}


def test_the_first_argument_may_have_any_name():
    class Mine(Configurable):
        def __init__(this, dim: int, self: int = 3, cls: int = 5) -> None:
            this.dim = dim

    assert round_trip(Mine, 4) == {"dim": 4, "self": 3, "cls": 5}


def test_a_class_without_a_constructor_of_its_own():
    class Mine(Base):
        pass

    class Nothing(Configurable):
        pass

    class Mixin:
        def __init__(self, width: int) -> None:
            self.width = width

    class Mixed(Mixin, Configurable):
        pass

    assert round_trip(Mine, depth=3, dim=1) == {"dim": 1, "depth": 3}
    plugins._registered[KIND].clear()
    assert round_trip(Nothing, kind="losses") == {}
    plugins._registered["losses"].clear()
    assert round_trip(Mixed, 5, kind="losses") == {"width": 5}


def test_keyword_arguments_round_trip_by_their_own_names():
    class Mine(Base):
        def __init__(self, dim: int, *, scale: float = 1.0, **kwargs: Any) -> None:
            super().__init__(dim, **kwargs)
            self.scale = scale

    assert round_trip(Mine, 4, depth=7) == {"dim": 4, "scale": 1.0, "depth": 7}
    assert plugins.build(KIND, {"class_path": "Mine", "init_args": {"dim": 4, "depth": 7}}).sizes == (4, 7)
    with pytest.raises(PluginError, match=r"Mine: .*unexpected keyword argument 'deph'; it takes dim, scale"):
        plugins.build(KIND, {"class_path": "Mine", "init_args": {"dim": 4, "deph": 7}})
    with pytest.raises(TypeError, match="missing a required argument: 'dim'"):
        plugins.build(KIND, {"class_path": "Mine", "init_args": {}})


def test_arguments_without_a_name_are_refused_when_built():
    class Star(Configurable):
        def __init__(self, dim: int, *sizes: int) -> None: ...

    class Slash(Configurable):
        def __init__(self, dim: int, /) -> None: ...

    class All(Configurable):
        def __init__(*args: Any, **kwargs: Any) -> None: ...

    assert round_trip(Star, 4) == {"dim": 4}
    with pytest.raises(PluginError, match=r"Star: \*sizes cannot be saved by name; give its constructor named"):
        Star(4, 5)
    with pytest.raises(PluginError, match=r"Slash: dim is positional-only and cannot be saved"):
        Slash(4)
    plugins._registered[KIND].clear()
    assert round_trip(All, dim=4) == {"dim": 4}
    with pytest.raises(PluginError, match=r"All: \*args cannot be saved"):
        All(4)


def test_config_check_reads_the_constructor_of_a_base():
    assert schema._parameters("xt.models.context.mamba:Mamba") == ("depth", "d_state", "d_conv", "expand")
    assert schema._parameters("xt.models.context.base:ContextEncoder") == ()


@pytest.mark.parametrize("imported", [False, True])
def test_config_check_of_a_built_in_class_without_a_constructor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imported: bool
):
    base = "class Base:\n    def __init__(self, dim, depth=2): ...\n"
    (tmp_path / "xt").mkdir()
    (tmp_path / "xt/base.py").write_text(base)
    head = "from xt.base import Base\n" if imported else base
    (tmp_path / "xt/mine.py").write_text(f"{head}class Middle(Base): ...\nclass Mine(Middle): ...\n")
    monkeypatch.setattr(schema.xt, "__file__", str(tmp_path / "xt/__init__.py"))
    schema._parameters.cache_clear()
    assert schema._parameters("xt.mine:Mine") == ("depth",)
