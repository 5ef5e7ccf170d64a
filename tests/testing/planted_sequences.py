"""Faults of encoders that are read in passes or segments."""

import torch
import torch.nn.functional as F
from parts import Fading
from torch import Tensor, nn

from xt.geometry.grid import TokenLayout
from xt.models.context.base import Memory, Pass, SequentialContextEncoder
from xt.models.context_block import sincos_positions


class Drifting(SequentialContextEncoder):
    """Adds up all tokens so far, and shares the sum out."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.linear = nn.Linear(dim, dim)

    def passes(self) -> list[Pass]:
        return [Pass(self.step)]

    def step(self, tokens: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        heard = tokens.cumsum(1) / 10 + (memory[0] if memory else 0)
        return tokens + self.linear(heard), [heard[:, -1:].detach().clone()]


class ForgetsBetweenSegments(Drifting):
    def step(self, tokens: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        return super().step(tokens, None)


class PassFailsOnOneToken(Drifting):
    def step(self, tokens: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        if memory and tokens.shape[1] < 2:
            raise IndexError("too short")
        return super().step(tokens, memory)


class RemembersAllTokens(Drifting):
    def step(self, tokens: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        mixed, new = super().step(tokens, memory)
        return mixed, [*new, torch.cat([*(memory or [])[1:], tokens.detach()], 1)]


class KeepsTheSegment(Drifting):
    def step(self, tokens: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        heard = tokens.cumsum(1) / 10 + (memory[0] if memory else 0)
        return tokens + self.linear(heard), [heard[:, -1:].detach()]


class KeepsTheGraph(Drifting):
    def step(self, tokens: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        mixed, memory = super().step(self.linear(tokens), memory)
        return mixed, [memory[0] + self.linear.bias.sum()]


class SaysOtherChannels(Drifting):
    def passes(self) -> list[Pass]:
        return [Pass(super().step, channels=2 * self.dim), Pass(super().step)]


class StepForgets(Fading):
    def step(self, tokens: Tensor, layout: TokenLayout, memory: Memory | None) -> tuple[Tensor, Memory]:
        return super().step(tokens, layout, None)


class StepForgetsTheOrigin(Fading):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        places = sincos_positions(layout, self.dim)
        return super().step(tokens + F.pad(places, (0, 0, 0, layout.num_extra)).to(tokens), layout, None)[0]


class StepRemembersAll(Fading):
    def step(self, tokens: Tensor, layout: TokenLayout, memory: Memory | None) -> tuple[Tensor, Memory]:
        mixed, new = super().step(tokens, layout, memory)
        return mixed, [*new, torch.cat([*(memory or [])[1:], tokens.detach()], 1)]


class StepKeepsTheGraph(Fading):
    def step(self, tokens: Tensor, layout: TokenLayout, memory: Memory | None) -> tuple[Tensor, Memory]:
        mixed, memory = super().step(tokens, layout, memory)
        return mixed, [memory[0] + 0 * self.linear.bias.sum()]
