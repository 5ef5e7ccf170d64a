"""A class of context encoders under test: the tokens that it is given, and what must come back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from xt.geometry.grid import TokenLayout
from xt.models.context.base import ContextEncoder
from xt.testing.subject import Subject, told


@dataclass(frozen=True)
class ContextSubject(Subject):
    """A class of context encoders.

    Attributes:
        dim: Channels of a token.
    """

    dim: int = 32
    contracts: ClassVar[tuple[type, ...]] = (ContextEncoder,)
    kind: ClassVar[str] = "context_encoders"
    call: ClassVar[str] = "check_context_encoder(cls, dim=…, …)"

    @property
    def given(self) -> Mapping[str, Any]:
        """What the model supplies."""
        return {"dim": self.dim}

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
        with self.named(
            f"fails on {where}", "forward(tokens, layout) must take any length and layout; pad inside and cut off"
        ):
            out: Tensor = encoder(tokens, layout)
        if not isinstance(out, Tensor):
            raise self.fault(f"gives {told(out)} on {where}; forward returns the tokens (B, L, D)")
        if out.shape != tokens.shape:
            raise self.fault(
                f"gives {tuple(out.shape)} for tokens {tuple(tokens.shape)} on {where}; each token must come back"
            )
        self.finite(out, where)
        return out

    def answer(self, layout: TokenLayout, on: str, tokens: Tensor | None = None) -> Tensor:
        """Return what a new encoder in evaluation mode makes of tokens, without gradients."""
        with torch.no_grad():
            return self.run(self.build(), self.tokens(layout) if tokens is None else tokens, layout, on)


def describe(layout: TokenLayout) -> str:
    """Write a layout in words."""
    absent = layout.num_regions - layout.num_existing
    parts = [f"{layout.region_rows} × {layout.region_cols} regions of {layout.side} × {layout.side}"]
    parts += [f"{absent} do not exist"] if absent else []
    parts += [f"{layout.num_extra} extra"] if layout.num_extra else []
    return ", ".join(parts)
