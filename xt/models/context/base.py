"""The contracts of a context encoder.

Every one takes the whole sequence (:class:`ContextEncoder`). A scene whose tokens do not fit in memory needs one that
takes it in parts: layer by layer along the sequence (:class:`SequentialContextEncoder`), or all layers at once, region
by region (:class:`RecurrentContextEncoder`). An encoder with neither is given all tokens of the scene.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from xt.geometry.grid import TokenLayout
from xt.plugins import Configurable

Memory = list[Tensor]
"""What a context encoder carries between segments; always detached. Empty before the first token."""

Step = Callable[[Tensor, Memory | None], tuple[Tensor, Memory]]
"""Tokens ``(B, l, D)`` and memory, None at the start → tokens ``(B, l, D')`` and the memory for the next segment."""


COSTS = {"linear": 1.1, "log-linear": 1.2, "quadratic": 2.1}
"""Class of cost → the highest exponent of the tokens that :mod:`xt.testing` lets pass for it."""


class ContextEncoder(nn.Module, Configurable, ABC):
    """Mixes the tokens of all regions of an image.

    Tokens come in raster order of the whole map, extra ones (a class token) last; ``layout`` says where each lies
    (:mod:`xt.geometry.order` gives other orders). Every length must work, and cost should be near-linear in it.
    Positions are added before, by the model. The first constructor argument is ``dim``; the model supplies it.
    The same tokens at the same places of a scene get the same answer, whether ``layout.origin`` tells the places, or
    regions before that do not exist. :func:`xt.testing.check_context_encoder` checks all of this.

    Attributes:
        family: What the class is a kind of, for ``xt models list``.
        cost: How work grows with the tokens: a key of :data:`COSTS`.
        dim: Channels of a token.
        working_values: Values that mixing holds at once for each channel of a token, results and temporaries.
    """

    family: ClassVar[str] = "other"
    cost: ClassVar[str] = "linear"
    dim: int
    working_values: float = 16.0

    @property
    def last_sees(self) -> bool:
        """Whether the last token sees any other, as a class token must."""
        return True

    @abstractmethod
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        """Mix tokens ``(B, L, D)`` into ``(B, L, D)``; L is ``layout.num_tokens``."""

    def working_bytes(self, num_tokens: int) -> int:
        """Estimate what mixing so many tokens holds at once, beside parameters and the tokens given.

        It is asked before a scene is mixed, without gradients: ``working_values`` of a parameter's type for each
        channel of each token. An encoder whose need is not linear in the tokens says its own.
        """
        itemsize = next((p.element_size() for p in self.parameters()), 4)
        return math.ceil(self.working_values * num_tokens * self.dim * itemsize)

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


PIECE_TOKENS = 1024
"""Tokens that an encoder which can be cut is given at a time."""


def pieces_pay(tokens: Tensor) -> bool:
    """Whether to take tokens ``(B, L, D)`` in pieces: on a CPU, where it saves memory, and time that large blocks cost.

    A GPU needs them all at once to be busy.
    """
    on_cpu = tokens.device.type == "cpu" and not torch.compiler.is_compiling()
    return on_cpu and tokens.shape[1] > PIECE_TOKENS


@dataclass(frozen=True)
class Pass:
    """One reading of the whole sequence, segment by segment, such as one layer in its direction.

    Attributes:
        step: Mixes one segment ``(B, l, D)``, l ≥ 1, with what the one before left. A segment is a run of tokens of any
            length, one included; its tokens are in raster order of the whole map in both directions.
        reverse: Segments come from the last to the first, so the tokens *after* this segment have been read. The step
            reads each segment backward too.
        channels: Channels of a token after the step; None for ``dim``. The last pass returns to ``dim``.
    """

    step: Step
    reverse: bool = False
    channels: int | None = None


def sweep(tokens: Tensor, passes: Sequence[Pass], memories: list[Memory | None], size: int) -> Tensor:
    """Take tokens piece by piece through passes of one direction.

    Args:
        tokens: ``(B, l, D)``.
        passes: All forward or all ``reverse``.
        memories: Of the passes; they are replaced.
        size: Tokens of a piece.

    Returns:
        ``(B, l, D')``, in raster order.
    """
    reverse = bool(passes) and passes[0].reverse
    mixed, whole = [], None
    # Not slices: the gradient of each would be a whole sequence, all zeros but for the slice.
    pieces = list(enumerate(torch.split(tokens, size, dim=1)))
    for number, piece in reversed(pieces) if reverse else pieces:
        for index, each in enumerate(passes):
            piece, memories[index] = each.step(piece, memories[index])
        if torch.is_grad_enabled() or len(pieces) == 1:
            mixed.append(piece)
        else:  # in its place at once, since joining takes twice the memory
            whole = piece.new_empty(len(piece), tokens.shape[1], piece.shape[2]) if whole is None else whole
            whole[:, number * size : (number + 1) * size] = piece
    return torch.cat(mixed[::-1] if reverse else mixed, dim=1) if whole is None else whole


class SequentialContextEncoder(ContextEncoder):
    """A context encoder made of passes over the sequence, each of which can be cut anywhere.

    A pass reads tokens in one direction and carries a memory that does not grow with the sequence. What comes out is
    the same for every cut, so any length is mixed in constant memory while the tokens between two passes lie on disk.
    A pass knows no regions: a token has its position, and the sequence its order.

    Who plugs in an encoder writes :meth:`passes`; :meth:`forward` follows. A layer that needs both directions at once
    is two passes: the first, backward, returns each token and beside it what it heard, ``channels`` 2 · dim in all; the
    second, forward, adds what it hears itself and projects the sum to ``dim``.
    """

    @abstractmethod
    def passes(self) -> Sequence[Pass]:
        """Passes in their order: the first takes the tokens, each other what the one before gave. There may be none."""

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        """Mix tokens ``(B, L, D)``: all passes, in pieces where that pays and no gradient is lost at their borders."""
        size = PIECE_TOKENS if pieces_pay(tokens) and not torch.is_grad_enabled() else tokens.shape[1]
        for each in self.passes():
            tokens = sweep(tokens, [each], [None], size)
        return tokens


class RecurrentContextEncoder(ContextEncoder):
    """A context encoder that can take an image in segments, in constant memory, all its layers in one reading.

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
