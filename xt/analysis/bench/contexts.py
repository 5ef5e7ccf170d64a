"""Context encoders as sides of a comparison: ``Hyper``, or ``TransformerXL:chunk_regions=16,min_seq_len=2048``."""

import functools
import math
import re
from typing import Any

import torch
import yaml
from torch import Tensor

from xt import plugins
from xt.analysis.bench.measure import Run
from xt.analysis.bench.settings import Settings
from xt.errors import ConfigError
from xt.geometry.grid import TokenLayout
from xt.models.context.base import ContextEncoder

SIDE = 16
"""Tokens along a region, if the tokens divide."""


def layout_of(tokens: int) -> TokenLayout:
    """The layout of so many tokens nearest to a square, of regions of 16 × 16 tokens where they divide."""
    side = SIDE
    while tokens % side**2:
        side //= 2
    regions = tokens // side**2
    rows = next(n for n in range(math.isqrt(regions), 0, -1) if regions % n == 0)
    return TokenLayout(rows, regions // rows, side)


def parse(text: str) -> dict[str, Any]:
    """Read ``NAME`` or ``NAME:KEY=VALUE,KEY=[VALUE,…],…`` into ``{"class_path": …, "init_args": …}``.

    Raises:
        ConfigError: If an argument has no value.
    """
    name, _, rest = text.partition(":")
    arguments = {}
    for pair in filter(None, re.split(r",(?![^\[]*\])", rest)):  # not where it parts the values of a list
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"{text}: {pair!r} has no value; write {name}:{pair}=VALUE")
        arguments[key] = yaml.safe_load(value)
    return {"class_path": name, "init_args": arguments}


def build(text: str, settings: Settings) -> ContextEncoder:
    """Build the encoder that a side names, always with the same weights.

    Raises:
        PluginError: If a name is unknown; with the nearest one.
        ConfigError: If a value is not one that the encoder takes.
    """
    torch.manual_seed(0)
    try:
        encoder: ContextEncoder = plugins.build("context_encoders", parse(text), dim=settings.dim)
    except (TypeError, ZeroDivisionError, RuntimeError) as error:
        raise ConfigError(f"{text} cannot be built: {error}") from error
    return encoder.to(settings.device, getattr(torch, settings.dtype))


def prepare(side: str, tokens: int, settings: Settings) -> Run:
    """Make an encoder ready to run on tokens."""
    encoder, layout = build(side, settings), layout_of(tokens)

    def call(x: Tensor) -> Tensor:
        out: Tensor = encoder.train(torch.is_grad_enabled())(x, layout)
        return out

    inputs = _draw(tokens, settings.dim, settings.dtype, settings.device)
    return Run(call, (inputs,), tuple(p for p in encoder.parameters() if p.requires_grad))


@functools.lru_cache(maxsize=1)
def _draw(tokens: int, dim: int, dtype: str, device: str) -> Tensor:
    x = torch.randn(1, tokens, dim, generator=torch.Generator().manual_seed(tokens))
    return x.to(device, getattr(torch, dtype))
