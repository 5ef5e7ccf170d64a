"""Context encoders with one fault each, and the words by which the kit must name it."""

from typing import Any

import torch
import torch.nn.functional as F
from parts import Fading
from planted_costs import FusedQuadratic, LongConvolution, Quadratic, SlicedGradient, UnknownCost
from planted_sequences import (
    ForgetsBetweenSegments,
    KeepsTheGraph,
    KeepsTheSegment,
    PassFailsOnOneToken,
    RemembersAllTokens,
    SaysOtherChannels,
    StepForgets,
    StepForgetsTheOrigin,
    StepKeepsTheGraph,
    StepRemembersAll,
)
from sound import Sound
from torch import Tensor, nn

from xt.geometry import order
from xt.geometry.grid import TokenLayout
from xt.models.context.base import Memory
from xt.models.context_block import sincos_positions
from xt.models.tokenization import permute


class Placed(Sound):
    """Adds places in the scene."""

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        places = sincos_positions(layout, self.dim).to(tokens)
        return super().forward(tokens + F.pad(places, (0, 0, 0, layout.num_extra)), layout)


class PlacedSteps(Fading):
    """Adds places in the scene, segment by segment."""

    def step(self, tokens: Tensor, layout: TokenLayout, memory: Memory | None) -> tuple[Tensor, Memory]:
        places = sincos_positions(layout, self.dim).to(tokens)
        return super().step(tokens + F.pad(places, (0, 0, 0, layout.num_extra)), layout, memory)


class NoSubclass:
    def __init__(self, dim: int) -> None:
        self.dim = dim


class NoDim(Sound):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.dim = 2 * dim


class NegativeMemory(Sound):
    working_values = -1.0


class CannotBeBuilt(Sound):
    def __init__(self, dim: int, heads: int = 5) -> None:
        super().__init__(dim)
        if dim % heads:
            raise ValueError(f"{dim} channels, {heads} heads\nand more")


class Pooled(Sound):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        return super().forward(tokens, layout).mean(1)


class Doubles(Sound):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        return super().forward(tokens, layout).double()


class InPlace(Sound):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        tokens += 1
        return super().forward(tokens, layout)


class ContiguousOnly(Sound):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        return super().forward(tokens.view(-1, self.dim).view(tokens.shape), layout)


class ReadsStrides(Sound):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        length = tokens.shape[1]
        return super().forward(tokens.as_strided(tokens.shape, (length * self.dim, self.dim, 1)), layout)


class InPairs(Sound):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        if tokens.shape[1] == 1:
            return super().forward(tokens, layout)
        pairs = tokens.reshape(len(tokens), 2, -1, self.dim)
        return super().forward(pairs.flatten(1, 2), layout)


class SquareOnly(Sound):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        if layout.region_cols > 3 and layout.side > 1:
            tokens = tokens.reshape(len(tokens), layout.height, layout.height, self.dim).flatten(1, 2)
        return super().forward(tokens, layout)


class OneToken(Sound):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        return super().forward(tokens / tokens.std(1, correction=0, keepdim=True), layout)


class LastIsBlind(Sound):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        return torch.cat([super().forward(tokens[:, :-1], layout), self.linear(tokens[:, -1:])], 1)


class SaysItIsBlind(Sound):
    last_sees = False


class RandomInEval(Sound):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        return F.dropout(super().forward(tokens, layout), 0.1)


class MixesBatch(Sound):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        return tokens + self.linear(tokens - tokens.mean((0, 1)))


class Local(Sound):
    """Sees two tokens each way."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.conv = nn.Conv1d(dim, dim, 5, padding=2, groups=dim)

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        return self.linear(tokens + self.conv(tokens.transpose(1, 2)).transpose(1, 2))


class CountsTheExtent(Sound):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        return super().forward(tokens + layout.height / 10, layout)


class ForgetsTheOrigin(Sound):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        places = torch.from_numpy(order.positions(layout).copy()).to(tokens).sum(1)[:, None] / 10
        return super().forward(tokens + F.pad(places.sin(), (0, 0, 0, layout.num_extra)), layout)


class CountsTheOriginTwice(Sound):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        places = torch.from_numpy(order.scene_positions(layout) + layout.origin).to(tokens).sum(1)[:, None] / 10
        return super().forward(tokens + F.pad(places.sin(), (0, 0, 0, layout.num_extra)), layout)


class UnusedParameter(Sound):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.scale = nn.Parameter(torch.ones(dim))


class DropsTokens(Sound):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        kept = torch.arange(tokens.shape[1])[:, None] % 3 != 2
        mixed = super().forward(tokens * kept, layout)
        return mixed if tokens.shape[1] < 3 or not self.training else mixed * kept


class DetachesTokens(Sound):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        return super().forward(tokens.detach(), layout)


class EndlessGradient(Sound):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        return super().forward(tokens, layout) + (0 * self.linear.bias).square().sum().sqrt()


class LossIsVector(Sound):
    def losses(self) -> dict[str, Tensor]:
        return {"balance": self.linear.weight[0]}


class LossIsEndless(Sound):
    def losses(self) -> dict[str, Tensor]:
        return {"balance": self.linear.weight.sum() * torch.inf}


class NoModule(Sound):
    def __init__(self, dim: int) -> None:
        self.dim = dim


class GivesATuple(Sound):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Any:
        return super().forward(tokens, layout), None


class GivesNothing(Sound):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Any:
        super().forward(tokens, layout)


class LossesAreAList(Sound):
    def losses(self) -> Any:
        return [torch.zeros(())]


class LossesAreNothing(Sound):
    def losses(self) -> Any:
        return None


class SparesNothing(Sound):
    def no_weight_decay(self) -> Any:
        return None


class SparesAString(Sound):
    def no_weight_decay(self) -> Any:
        return "linear.weight"


class NamesNothing(Sound):
    def no_weight_decay(self) -> set[str]:
        return {"A_log"}


class Float32Only(Sound):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        return super().forward(tokens, layout) @ torch.eye(self.dim)


class StaysInFloat32(Sound):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        return super().forward(tokens, layout) + torch.zeros(1, 1, self.dim)


class Coarse(Sound):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        return super().forward((tokens + 3000) - 3000, layout)


class EndlessByAutocast(EndlessGradient):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            return super().forward(tokens, layout)
        return Sound.forward(self, tokens, layout)


class DrawsWhenBuilt(Sound):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.drawn = torch.randn(dim)

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        return super().forward(tokens * self.drawn.to(tokens), layout)


class TakesATensor(Sound):
    def __init__(self, dim: int, scale: Tensor | None = None) -> None:
        super().__init__(dim)


class Flipped(Sound):
    """Gives back the last token first."""

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        return super().forward(tokens, layout).flip(1)


class RegionMajor(Sound):
    """Forgets to bring tokens back from the order of regions."""

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        return permute(super().forward(tokens, layout), order.region_major(layout))


FAULTS: list[tuple[type, dict, str]] = [
    (NoSubclass, {}, "is no subclass of ContextEncoder"),
    (CannotBeBuilt, {}, r"cannot be built: ValueError: 32 channels, 5 heads; give the kit arguments"),
    (NoDim, {}, "has dim 64 where 32 was given"),
    (NegativeMemory, {}, r"estimates -\d+ bytes of memory"),
    (Pooled, {}, r"gives \(2, 32\) for tokens \(2, 64, 32\)"),
    (Doubles, {}, "turns float32 into torch.float64"),
    (InPlace, {}, "changes the tokens that it is given"),
    (ContiguousOnly, {}, "fails on tokens that are not contiguous in memory .*RuntimeError"),
    (ReadsStrides, {}, "answers otherwise to tokens that are not contiguous"),
    (Flipped, {}, "gives tokens back in another order: what token 0 says is found at place 23, and 24 of 24"),
    (RegionMajor, {}, "gives tokens back in another order"),
    (OneToken, {}, r"gives values that are not finite on one token"),
    (InPairs, {}, r"fails on an odd length, 3 tokens \(1 × 3 regions of 1 × 1\): RuntimeError: .*any length"),
    (SquareOnly, {}, "fails on a map that is not square"),
    (LastIsBlind, {}, "its last token sees no other, as a class token must"),
    (SaysItIsBlind, {}, "has last_sees False, but the last token sees others"),
    (RandomInEval, {}, "is random in eval"),
    (MixesBatch, {}, "mixes batch entries"),
    (Local, {}, "ignores far tokens"),
    (CountsTheExtent, {}, "answers otherwise when a last row of regions is there that does not exist"),
    (ForgetsTheOrigin, {}, "forgets the origin"),
    (CountsTheOriginTwice, {}, "reads the origin in another way than places"),
    (UnusedParameter, {}, "has parameters without a gradient: scale;"),
    (DetachesTokens, {}, "gives no gradient to the tokens"),
    (DropsTokens, {}, "leaves tokens without a gradient"),
    (EndlessGradient, {}, r"has gradients that are not finite: linear.bias"),
    (LossIsVector, {}, "gives a loss 'balance' that is no finite scalar"),
    (LossIsEndless, {}, "gives a loss 'balance' that is no finite scalar"),
    (NoModule, {}, r"cannot be built: NoModule: its constructor must begin with super\(\)\.__init__\(\)$"),
    (GivesATuple, {}, r"gives a tuple on .*; forward returns the tokens"),
    (GivesNothing, {}, "gives nothing on"),
    (LossesAreAList, {}, r"gives a list as losses\(\); it is a dict"),
    (LossesAreNothing, {}, r"gives nothing as losses\(\)"),
    (SparesNothing, {}, r"gives nothing as no_weight_decay\(\); it is a set"),
    (SparesAString, {}, r"gives a str as no_weight_decay\(\)"),
    (NamesNothing, {}, "names A_log in no_weight_decay, which are no parameters"),
    (Float32Only, {}, r"fails on bfloat16 .*RuntimeError"),
    (StaysInFloat32, {}, "turns bfloat16 into torch.float32"),
    (EndlessByAutocast, {}, "has gradients that are not finite in bfloat16 by autocast"),
    (Coarse, {}, r"is \d+% off in bfloat16"),
    (ForgetsBetweenSegments, {}, r"has passes that depend on the cut: cut at every token of 24"),
    (PassFailsOnOneToken, {}, r"fails in pass 0 cut at every token: IndexError: too short"),
    (RemembersAllTokens, {}, "a memory whose shape changes with the segment in pass 0"),
    (KeepsTheSegment, {}, "a memory that keeps its segment alive in pass 0"),
    (KeepsTheGraph, {}, "a memory with a gradient in pass 0"),
    (SaysOtherChannels, {}, "has 32 channels after pass 0, where it says 64"),
    (StepForgets, {}, "differs between step and forward: over segments of 1 regions"),
    (StepForgetsTheOrigin, {}, "differs between step and forward"),
    (StepRemembersAll, {}, "has a memory that grows with the image"),
    (StepKeepsTheGraph, {}, "has a memory with a gradient; detach what step returns"),
    (DrawsWhenBuilt, {}, "answers otherwise after saving and loading"),
    (TakesATensor, {"scale": torch.ones(1)}, "cannot be saved and loaded: TypeError"),
    (Quadratic, {}, r"is quadratic: .* grow as tokens\^(1\.[5-9]|2\.0)"),
    (FusedQuadratic, {}, "is quadratic: "),
    (LongConvolution, {}, r"is quadratic: multiplications grow as"),
    (SlicedGradient, {}, r"is quadratic: elements computed grow as .* split the sequence instead of slicing"),
    (UnknownCost, {}, "has cost 'cheap'; it is one of linear, log-linear, quadratic"),
]  # fmt: skip
