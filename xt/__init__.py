"""xT: vision models for images that do not fit in memory.

The public names are imported when they are first used, so ``import xt`` itself costs nothing::

    model = xt.load("runs/x")
    result = xt.predict(model, "scene.tif")
    result.read(xt.Window(0, 0, 512, 512))
    result.write("out.tif")
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xt.geometry.grid import RegionGrid, TokenLayout, Window
    from xt.inference.session import Prediction, TrainedModel, load, predict
    from xt.inference.vectorize import vectorize
    from xt.models.upstream import load_upstream
    from xt.models.xt import XT
    from xt.plugins import register
    from xt.training.cli import train

__version__ = "0.1.0"

_HOMES = {
    "Prediction": "xt.inference.session",
    "RegionGrid": "xt.geometry.grid",
    "TokenLayout": "xt.geometry.grid",
    "TrainedModel": "xt.inference.session",
    "Window": "xt.geometry.grid",
    "XT": "xt.models.xt",
    "load": "xt.inference.session",
    "load_upstream": "xt.models.upstream",
    "predict": "xt.inference.session",
    "register": "xt.plugins",
    "train": "xt.training.cli",
    "vectorize": "xt.inference.vectorize",
}

__all__ = [
    "XT",
    "Prediction",
    "RegionGrid",
    "TokenLayout",
    "TrainedModel",
    "Window",
    "load",
    "load_upstream",
    "predict",
    "register",
    "train",
    "vectorize",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'xt' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names and modules."""
    return sorted({*globals(), *__all__})
