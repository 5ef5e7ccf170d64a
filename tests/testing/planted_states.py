"""Context encoders that keep what they should not, and the words by which the kit must name it."""

import torch
from sound import Sound
from torch import Tensor, nn

from xt.geometry import order
from xt.geometry.grid import TokenLayout


class BatchNorm(Sound):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.norm = nn.BatchNorm1d(dim)

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        return super().forward(self.norm(tokens.mT).mT, layout)


class MixesBatchInTraining(Sound):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        found = super().forward(tokens, layout)
        return found + tokens.mean(0, keepdim=True) if self.training else found


class InPlaceInTraining(Sound):
    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        if self.training:
            tokens.data.mul_(1.5)
        return super().forward(tokens, layout)


class ForgetsWhatItLearnt(Sound):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.steps = 0

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        self.steps += self.training
        return super().forward(tokens, layout) * (1 + self.steps / 100)


class KeepsPlacesByLength(Sound):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.kept: dict[int, Tensor] = {}

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        if tokens.shape[1] not in self.kept:
            places = torch.from_numpy(order.scene_positions(layout)).float() @ torch.tensor([0.3, 0.7])
            self.kept[tokens.shape[1]] = nn.functional.pad(places.sin(), (0, layout.num_extra))
        return super().forward(tokens + self.kept[tokens.shape[1]][:, None].to(tokens), layout)


class KeepsTheFirstScale(Sound):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.scale: Tensor | None = None

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        if self.scale is None or len(self.scale) != len(tokens):
            self.scale = tokens.detach().square().mean((1, 2), keepdim=True).sqrt()
        return super().forward(tokens / self.scale, layout)


class KeepsTheType(Sound):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.scale: dict[torch.device, Tensor] = {}

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        found = super().forward(tokens, layout)
        scale = (self.linear.weight.float().square().sum() / 7).sqrt().detach()
        kept = self.scale.setdefault(
            tokens.device, scale.bfloat16().float() if torch.is_autocast_enabled("cpu") else scale
        )
        return found * kept.to(found)


FAULTS: list[tuple[type, dict, str]] = [
    (BatchNorm, {}, "mixes batch entries in training, as batch norm does"),
    (MixesBatchInTraining, {}, "mixes batch entries in training"),
    (InPlaceInTraining, {}, "changes the tokens that it is given, in training"),
    (ForgetsWhatItLearnt, {}, "answers otherwise after saving and loading"),
    (KeepsPlacesByLength, {}, "answers otherwise after (larger values|as many tokens in other places)"),
    (KeepsTheFirstScale, {}, "answers otherwise after larger values"),
    (KeepsTheType, {}, "answers otherwise after bfloat16"),
]
