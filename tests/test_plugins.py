import pytest

from xt import plugins
from xt.errors import PluginError, nearest


def test_builtin_names_resolve():
    for kind in plugins.BUILTINS:
        for name in plugins.BUILTINS[kind]:
            assert plugins.resolve(kind, name).__name__ == name


def test_unknown_names_and_arguments_give_the_nearest():
    with pytest.raises(PluginError, match="did you mean 'Mamba'"):
        plugins.resolve("context_encoders", "Mambaa")
    with pytest.raises(PluginError, match="'deph'; did you mean 'depth'"):
        plugins.build("context_encoders", {"class_path": "Mamba", "init_args": {"deph": 1}}, dim=16)
    with pytest.raises(PluginError, match="did you mean 'context_encoders'"):
        plugins.names("context_encoder")
    with pytest.raises(PluginError, match="no module named 'no_such_module'"):
        plugins.load_modules(["no_such_module"])
    assert nearest("zzz", ["a", "b"]) == "; known: a, b"


def test_a_built_in_name_cannot_be_taken():
    with pytest.raises(PluginError, match="is taken"):
        plugins.register("context_encoders", "Mamba")(type("Other", (), {}))
