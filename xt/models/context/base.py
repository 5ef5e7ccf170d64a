"""The contract of a context encoder."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from xt.geometry.grid import TokenLayout
from xt.plugins import Configurable

Memory = list[Tensor]
"""What a recurrent context encoder carries between segments; always detached."""


class ContextEncoder(nn.Module, Configurable, ABC):
    """Mixes the tokens of all regions of an image.

    Tokens come in raster order of the whole map, extra ones (a class token) last; ``layout`` says where each lies
    (:mod:`xt.geometry.order` gives other orders). Every length must work, and cost should be near-linear in it.
    Positions are added before, by the model. The first constructor argument is ``dim``; the model supplies it.

    Attributes:
        dim: Channels of a token.
    """

    dim: int

    @property
    def last_sees(self) -> bool:
        """Whether the last token sees any other, as a class token must."""
        return True

    @abstractmethod
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        """Mix tokens ``(B, L, D)`` into ``(B, L, D)``; L is ``layout.num_tokens``."""


class RecurrentContextEncoder(ContextEncoder):
    """A context encoder that can take an image in segments, in constant memory."""

    @abstractmethod
    def step(self, tokens: Tensor, layout: TokenLayout, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Mix one segment, reading what earlier ones left.

        Args:
            tokens: ``(B, L, D)``, tokens of whole regions, region after region.
            layout: Layout of these regions alone.
            memory: What the last call returned, or None at the start of an image.

        Returns:
            The mixed tokens ``(B, L, D)`` and the memory for the next segment.
        """
