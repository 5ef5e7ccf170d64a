"""Loading a model onto the device that the user or the machine chooses."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xt.models.metadata import ModelMetadata
    from xt.models.xt import XT

HELP = "cpu, cuda, cuda:1 … (cuda if there is one)"


def load_on(device: str | None, path: Path, modules: list[str]) -> "tuple[XT, ModelMetadata]":
    """Import plug-ins, load a model and move it.

    Raises:
        PluginError: If a module cannot be found.
        CheckpointError: If it cannot be loaded.
        ConfigError: If there is no such device.
    """
    import torch

    from xt import plugins
    from xt.errors import ConfigError
    from xt.models.checkpoint import load_model

    plugins.load_modules(modules)
    model, metadata = load_model(path)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {device}: {str(error).splitlines()[0]}") from error
    return model, metadata
