"""The contract of a context encoder."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from xt.geometry.grid import TokenLayout
from xt.plugins import Configurable

Memory = list[Tensor]
"""What a recurrent context encoder carries between segments; always detached. Empty before the first token."""


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

    def losses(self) -> dict[str, Tensor]:
        """Auxiliary losses of the last forward, by name: scalars with their gradient, ready to be added.

        A task adds them to its own loss after each forward, and logs them by these names. None by default.
        """
        return {}

    def no_weight_decay(self) -> set[str]:
        """Names of parameters, relative to this module, that weight decay must leave alone.

        By default those that submodules name in a method ``no_weight_decay`` of their own. Biases and the weights of
        norms need no name; an optimizer knows them by their one axis.
        """
        found: set[str] = set()
        for path, module in self.named_modules():
            if module is not self and hasattr(module, "no_weight_decay"):
                found |= {f"{path}.{name}" for name in module.no_weight_decay()}
        return found


class RecurrentContextEncoder(ContextEncoder):
    """A context encoder that can take an image in segments, in constant memory.

    A segment is a run of whole regions that follow each other in the order in which the encoder visits them: raster
    order of regions that exist, unless its class says otherwise. Its own layout is the smallest that holds them in that
    order: a part of one row of regions, or whole rows; a run that starts or stops inside a row, and is longer, takes
    the whole rows with ``exists`` False elsewhere. Extra tokens come with the last segment.

    :meth:`step` over the segments of an image gives each token what :meth:`forward` over the whole image does, if every
    segment but the last holds a multiple of ``segment_regions`` existing regions. Other cuts work, and give an answer
    of their own. Positions are not the encoder's: the model adds those of the whole image before.

    Attributes:
        segment_regions: Regions that the encoder takes at a time.
    """

    segment_regions: int = 1

    @abstractmethod
    def step(self, tokens: Tensor, layout: TokenLayout, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Mix one segment, reading what earlier ones left.

        Args:
            tokens: ``(B, L, D)`` in the order of :meth:`forward`: raster order of the segment's own map, extra ones
                last. L may be 0.
            layout: Layout of the segment alone.
            memory: What the last call returned, or None at the start of an image.

        Returns:
            The mixed tokens ``(B, L, D)`` in the same order and the memory for the next segment.
        """
