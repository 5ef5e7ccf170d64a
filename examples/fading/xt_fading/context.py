"""Fading means along the tokens, forward and backward in turn."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from xt.models.context.base import Memory, Pass, SequentialContextEncoder

CHUNK = 256


class FadingLayer(nn.Module):
    """Adds to each token a gated mean of those read before, which fades at a rate that each channel learns."""

    def __init__(self, dim: int, longest: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.project = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        half_lives = torch.logspace(0, math.log10(longest), dim)
        self.log_rate = nn.Parameter((math.log(2) / half_lives).log())

    def forward(self, tokens: Tensor, memory: Memory | None, reverse: bool) -> tuple[Tensor, Memory]:
        """Mix a segment ``(B, l, D)``; the memory is the mean so far ``(B, D)``."""
        value, gate = self.project(self.norm(tokens)).chunk(2, dim=-1)
        keep = torch.exp(-self.log_rate.float().exp())  # in float32, for half-lives that are long
        fresh = (1 - keep) * (value.flip(1) if reverse else value).float()
        state = memory[0] if memory else torch.zeros_like(fresh[:, 0])
        means = []
        for chunk in fresh.split(CHUNK, 1):
            mean = torch.cat([chunk[:, :1] + (keep * state)[:, None], chunk[:, 1:]], 1)
            reach = 1
            while reach < mean.shape[1]:  # after each turn a mean goes twice as far back
                mean = mean + keep**reach * nn.functional.pad(mean[:, :-reach], (0, 0, reach, 0))
                reach *= 2
            means.append(mean)
            state = mean[:, -1]
        heard = torch.cat(means, 1).to(tokens.dtype)
        mixed: Tensor = tokens + self.out((heard.flip(1) if reverse else heard) * torch.sigmoid(gate))
        return mixed, [state.detach().clone()]


class FadingMeans(SequentialContextEncoder):
    """Layers that read forward and backward in turn, the first forward.

    Args:
        dim: Channels of a token.
        depth: Layers.
        longest: Tokens after which the slowest channel has forgotten half, at the start.
    """

    family = "linear recurrence"
    cost = "linear"

    def __init__(self, dim: int, depth: int = 2, longest: float = 1024.0) -> None:
        super().__init__()
        self.dim = dim
        self.layers = nn.ModuleList(FadingLayer(dim, longest) for _ in range(depth))

    def passes(self) -> Sequence[Pass]:
        """One pass for each layer."""

        def read(layer: nn.Module, reverse: bool) -> Pass:
            return Pass(lambda tokens, memory: layer(tokens, memory, reverse), reverse)

        return [read(layer, index % 2 == 1) for index, layer in enumerate(self.layers)]
