"""The class under test: how it is built and called, and how its faults are told."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from xt.geometry.grid import TokenLayout
from xt.models.context.base import ContextEncoder
from xt.testing.report import EncoderFault

RELATIVE = 1e-4
"""Difference of two fp32 answers, over the largest value, that counts as none."""
SEEN = 1e-6
"""Change of an answer, over the largest value, from which on what was changed counts as seen."""


@dataclass(frozen=True)
class Subject:
    """A class of context encoders with the arguments it is tested with.

    Attributes:
        cls: The class.
        dim: Channels of a token.
        init_args: Its other arguments.
    """

    cls: type[ContextEncoder]
    dim: int = 32
    init_args: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Write it as it is built."""
        arguments = ", ".join(f"{key}={value!r}" for key, value in {"dim": self.dim, **self.init_args}.items())
        return f"{self.cls.__name__}({arguments})"

    def fault(self, text: str) -> EncoderFault:
        """Return a fault of the class, to be raised."""
        return EncoderFault(f"{self.cls.__name__} {text}")

    @contextmanager
    def named(self, what: str, advice: str) -> Iterator[None]:
        """Raise as a fault whatever the encoder's code raises.

        Args:
            what: Completes "MyContext …", such as "fails on 7 tokens".
            advice: What to do.
        """
        try:
            yield
        except EncoderFault:
            raise
        # Code from elsewhere may raise anything, and each is a fault of it that must be named.
        except Exception as error:
            said = next(iter(str(error).splitlines()), "")
            raise self.fault(f"{what}: {type(error).__name__}: {said}; {advice}") from error

    def build(self) -> ContextEncoder:
        """Build in evaluation mode, with parameters moved a little: those that start at 0 would hide what others do."""
        torch.manual_seed(0)
        with self.named("cannot be built", "give the kit arguments that fit: check_context_encoder(cls, dim=…, …)"):
            encoder = self.cls(dim=self.dim, **self.init_args)
        if not hasattr(encoder, "_parameters"):
            raise self.fault("is no module yet when it is built; call super().__init__() first in __init__")
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in encoder.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.1 * noise.to(parameter) / math.sqrt(math.prod(parameter.shape[1:])))
        return encoder.eval()

    def tokens(self, layout: TokenLayout, batch: int = 2) -> Tensor:
        """Make tokens ``(B, L, D)``, the same at each call."""
        generator = torch.Generator().manual_seed(layout.num_tokens)
        return torch.randn(batch, layout.num_tokens, self.dim, generator=generator)

    def run(self, encoder: ContextEncoder, tokens: Tensor, layout: TokenLayout, on: str) -> Tensor:
        """Call the encoder and check the shape of its answer.

        Args:
            encoder: Built from the class.
            tokens: ``(B, L, D)``.
            layout: Of the tokens.
            on: What the tokens are, for messages.
        """
        where = f"{on} ({describe(layout)})"
        with self.named(f"fails on {where}", "any length and layout must work; pad inside and cut off again"):
            out: Tensor = encoder(tokens, layout)
        if not isinstance(out, Tensor):
            raise self.fault(f"gives {told(out)} on {where}; forward returns the tokens (B, L, D)")
        if out.shape != tokens.shape:
            raise self.fault(
                f"gives {tuple(out.shape)} for tokens {tuple(tokens.shape)} on {where}; each token must come back"
            )
        if not out.isfinite().all():
            raise self.fault(f"gives values that are not finite on {where}; look for a division by 0 or an overflow")
        return out

    def answer(self, layout: TokenLayout, on: str, tokens: Tensor | None = None) -> Tensor:
        """Return what a new encoder in evaluation mode makes of tokens, without gradients."""
        with torch.no_grad():
            return self.run(self.build(), self.tokens(layout) if tokens is None else tokens, layout, on)


def told(value: object) -> str:
    """Write of what kind a value is that should be another."""
    return "nothing" if value is None else f"a {type(value).__name__}"


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two fp32 answers agree."""
    return bool((one - other).abs().max() <= RELATIVE * other.abs().max())


def seen(one: Tensor, other: Tensor) -> bool:
    """Whether a change of the tokens shows: two answers differ."""
    return bool((one - other).abs().max() > SEEN * other.abs().max())


def describe(layout: TokenLayout) -> str:
    """Write a layout in words."""
    absent = layout.num_regions - layout.num_existing
    parts = [f"{layout.region_rows} × {layout.region_cols} regions of {layout.side} × {layout.side}"]
    parts += [f"{absent} do not exist"] if absent else []
    parts += [f"{layout.num_extra} extra"] if layout.num_extra else []
    return ", ".join(parts)
