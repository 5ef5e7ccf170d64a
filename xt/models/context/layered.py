"""Sequential encoders that are trained, too, in pieces: their readings hand gradients on through what they remember."""

import functools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xt.geometry.grid import TokenLayout
from xt.models.context import base
from xt.models.context.base import Memory, Pass, SequentialContextEncoder, Step, pieces_pay, sweep
from xt.models.context.blocks import recomputed


@dataclass(frozen=True)
class Reading:
    """A :class:`~xt.models.context.base.Pass` whose memory keeps its gradient.

    Attributes:
        piece: Mixes one segment with what the one before left.
        reverse: Segments come from the last to the first.
        channels: Channels of a token afterwards; None for ``dim``.
        whole: Mixes the whole sequence, where that is cheaper than one piece.
    """

    piece: Step
    reverse: bool = False
    channels: int | None = None
    whole: Callable[[Tensor], Tensor] | None = None

    def once(self, tokens: Tensor) -> Tensor:
        """Mix the whole sequence."""
        return self.piece(tokens, None)[0] if self.whole is None else self.whole(tokens)


class LayeredContextEncoder(SequentialContextEncoder):
    """Readings one after another. With gradients each, or each piece of it, is recomputed in backward."""

    @abstractmethod
    def readings(self) -> Sequence[Reading]:
        """Readings in their order."""

    def passes(self) -> Sequence[Pass]:
        """One pass for each reading."""
        return [Pass(functools.partial(_step, each), each.reverse, each.channels) for each in self.readings()]

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        """Mix tokens ``(B, L, D)``, in pieces where that pays; readings or pieces are recomputed in backward."""
        if not torch.is_grad_enabled():
            return super().forward(tokens, layout)
        for each in self.readings():
            if pieces_pay(tokens):
                run = functools.partial(recomputed, self.training, each.piece)
                tokens = sweep(tokens, [Pass(run, each.reverse)], [None], base.PIECE_TOKENS)
            else:
                tokens = recomputed(self.training, each.once, tokens)
        return tokens


def _step(reading: Reading, tokens: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
    tokens, memory = reading.piece(tokens, memory)
    return tokens, [each.detach() for each in memory]
