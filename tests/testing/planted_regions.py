"""Region encoders with one fault each, and the words by which the kit must name it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xt.models.region.base import RegionEncoder


class SoundRegions(RegionEncoder):
    """Two maps, of strides 4 and 8."""

    def __init__(self, in_chans: int, region_size: int = 16) -> None:
        super().__init__()
        self.in_chans, self.region_size = in_chans, region_size
        self.channels, self.strides = (4, 8), (4, 8)
        self.fine = nn.Conv2d(in_chans, 4, 4, 4)
        self.coarse = nn.Conv2d(4, 8, 2, 2)

    def forward(self, regions: Tensor) -> list[Tensor]:
        fine = F.silu(self.fine(regions))
        return [fine, self.coarse(fine)]


class OneMap(RegionEncoder):
    """A map of its own, with dropout in training and a parameter that does not learn."""

    def __init__(self, in_chans: int, region_size: int = 16) -> None:
        super().__init__()
        self.in_chans, self.region_size, self.channels, self.strides = in_chans, region_size, (8,), (8,)
        self.conv = nn.Conv2d(in_chans, 8, 8, 8)
        self.norm = nn.GroupNorm(2, 8)
        self.norm.bias.requires_grad_(False)

    def forward(self, regions: Tensor) -> list[Tensor]:
        return [F.dropout(self.norm(self.conv(regions)), 0.2, self.training)]


class NoRegionEncoder(nn.Module):
    pass


class RefusesTheSize(SoundRegions):
    def __init__(self, in_chans: int, region_size: int = 16) -> None:
        super().__init__(in_chans, region_size)
        raise ValueError("too small")


class NoStrides(SoundRegions):
    def __init__(self, in_chans: int) -> None:
        super().__init__(in_chans)
        del self.strides


class StridesOfAList(SoundRegions):
    def __init__(self, in_chans: int) -> None:
        super().__init__(in_chans)
        self.strides: Any = [4, 8]


class OtherChannels(SoundRegions):
    def __init__(self, in_chans: int) -> None:
        super().__init__(in_chans)
        self.in_chans = 3


class OtherStrides(SoundRegions):
    def __init__(self, in_chans: int, strides: tuple[int, ...] = (8, 4)) -> None:
        super().__init__(in_chans)
        self.strides = strides


class OneStrideTooFew(SoundRegions):
    def __init__(self, in_chans: int) -> None:
        super().__init__(in_chans)
        self.strides = (4,)


class SizeDoesNotDivide(SoundRegions):
    def __init__(self, in_chans: int) -> None:
        super().__init__(in_chans, 20)


class NoMaps(SoundRegions):
    def __init__(self, in_chans: int) -> None:
        super().__init__(in_chans)
        self.channels, self.strides = (), ()


class NoSize(SoundRegions):
    def __init__(self, in_chans: int) -> None:
        super().__init__(in_chans)
        del self.region_size


class SaysOtherStrides(SoundRegions):
    def __init__(self, in_chans: int) -> None:
        super().__init__(in_chans)
        self.strides = (2, 8)


class GivesOneTensor(SoundRegions):
    def forward(self, regions: Tensor) -> Any:
        return super().forward(regions)[-1]


class GivesNone(SoundRegions):
    def forward(self, regions: Tensor) -> Any:
        return [super().forward(regions)[0], None]


class GivesNoMap(SoundRegions):
    def forward(self, regions: Tensor) -> list[Tensor]:
        return []


class DoublesMaps(SoundRegions):
    def forward(self, regions: Tensor) -> list[Tensor]:
        return [each.double() for each in super().forward(regions)]


class ChangesRegions(SoundRegions):
    def forward(self, regions: Tensor) -> list[Tensor]:
        return super().forward(regions.clamp_(-1, 1))


class ViewsRegions(SoundRegions):
    def forward(self, regions: Tensor) -> list[Tensor]:
        return super().forward(regions.view(len(regions), -1).view(regions.shape))


class ViewsPlanes(SoundRegions):
    def forward(self, regions: Tensor) -> list[Tensor]:
        return super().forward(regions.view(-1, *regions.shape[2:]).view(regions.shape))


class ViewsPixels(SoundRegions):
    def forward(self, regions: Tensor) -> list[Tensor]:
        return super().forward(regions.view(*regions.shape[:2], -1).view(regions.shape))


class ReadsMemory(SoundRegions):
    def forward(self, regions: Tensor) -> list[Tensor]:
        return super().forward(regions.as_strided(regions.shape, torch.empty(regions.shape).stride()))


class DropsInEval(SoundRegions):
    def forward(self, regions: Tensor) -> list[Tensor]:
        return [F.dropout(each, 0.1) for each in super().forward(regions)]


class CentresTheBatch(SoundRegions):
    def forward(self, regions: Tensor) -> list[Tensor]:
        return super().forward(regions - regions.mean(0))


class BatchNorm(SoundRegions):
    def __init__(self, in_chans: int) -> None:
        super().__init__(in_chans)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, regions: Tensor) -> list[Tensor]:
        fine, coarse = super().forward(regions)
        return [fine, self.norm(coarse)]


class SparesAnother(SoundRegions):
    def no_weight_decay(self) -> set[str]:
        return {"position"}


class LeavesAParameter(SoundRegions):
    def __init__(self, in_chans: int) -> None:
        super().__init__(in_chans)
        self.position = nn.Parameter(torch.zeros(4))


class WeighsAParameterByZero(LeavesAParameter):
    def forward(self, regions: Tensor) -> list[Tensor]:
        return super().forward(regions + 0 * self.position.sum())


class DetachesAMap(SoundRegions):
    def forward(self, regions: Tensor) -> list[Tensor]:
        fine, coarse = super().forward(regions)
        return [fine.detach(), coarse]


class DetachesRegions(SoundRegions):
    def forward(self, regions: Tensor) -> list[Tensor]:
        return super().forward(regions.detach())


class StopsAtRegions(SoundRegions):
    def forward(self, regions: Tensor) -> list[Tensor]:
        return super().forward(regions.detach() + 0 * regions)


class EndlessWhereNoData(SoundRegions):
    def forward(self, regions: Tensor) -> list[Tensor]:
        return super().forward(regions / regions.square().mean((1, 2, 3), keepdim=True).sqrt())


class EndlessGradientOfTheInput(SoundRegions):
    def forward(self, regions: Tensor) -> list[Tensor]:
        return super().forward(regions + (regions - regions.detach()).abs().sqrt())


class EndlessGradientOfAParameter(SoundRegions):
    def __init__(self, in_chans: int) -> None:
        super().__init__(in_chans)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, regions: Tensor) -> list[Tensor]:
        return super().forward(regions + (self.scale * regions.detach()).square().sum(1, keepdim=True).sqrt())


class EndlessGradientWhereNoData(SoundRegions):
    def forward(self, regions: Tensor) -> list[Tensor]:
        return super().forward(regions + regions.square().sum(1, keepdim=True).sqrt())


class RegionsInFloat32(SoundRegions):
    def forward(self, regions: Tensor) -> list[Tensor]:
        return super().forward(regions * torch.ones(1, self.in_chans, 1, 1))


class MapsInFloat32(SoundRegions):
    def forward(self, regions: Tensor) -> list[Tensor]:
        return [each.float() for each in super().forward(regions)]


class EndlessByAutocast(EndlessGradientOfTheInput):
    def forward(self, regions: Tensor) -> list[Tensor]:
        endless = torch.is_autocast_enabled("cpu")
        return super().forward(regions) if endless else SoundRegions.forward(self, regions)


class DrawsRegions(SoundRegions):
    def __init__(self, in_chans: int) -> None:
        super().__init__(in_chans)
        self.drawn = torch.randn(in_chans, 1, 1)

    def forward(self, regions: Tensor) -> list[Tensor]:
        return super().forward(regions * self.drawn.to(regions))


class TakesAPath(SoundRegions):
    def __init__(self, in_chans: int, weights: Any = None) -> None:
        super().__init__(in_chans)


class ChangesRegionsInTraining(SoundRegions):
    def forward(self, regions: Tensor) -> list[Tensor]:
        if self.training:
            regions.data.mul_(1.5)
        return super().forward(regions)


class KeepsTheFirstScale(SoundRegions):
    scale: Tensor | None = None

    def forward(self, regions: Tensor) -> list[Tensor]:
        if self.scale is None or len(self.scale) != len(regions):
            self.scale = regions.detach().square().mean((1, 2, 3), keepdim=True).sqrt() + 1
        return super().forward(regions / self.scale)


class KeepsTheType(SoundRegions):
    scale: Tensor | None = None

    def forward(self, regions: Tensor) -> list[Tensor]:
        maps = super().forward(regions)
        if self.scale is None:
            scale = next(self.parameters()).detach().square().sum().sqrt() / 7
            self.scale = scale.bfloat16().float() if torch.is_autocast_enabled("cpu") else scale
        return [each * self.scale for each in maps]


class ForgetsWhatItLearnt(SoundRegions):
    steps = 0

    def forward(self, regions: Tensor) -> list[Tensor]:
        self.steps += self.training
        return [each * (1 + self.steps / 100) for each in super().forward(regions)]


FAULTS: list[tuple[type, dict, str]] = [
    (NoRegionEncoder, {}, "is no subclass of RegionEncoder; derive"),
    (RefusesTheSize, {}, r"cannot be built: ValueError: too small; give the kit .*check_region_encoder\(cls"),
    (NoStrides, {}, r"has strides None; set self\.strides to a tuple"),
    (StridesOfAList, {}, r"has strides \[4, 8\]; set self\.strides to a tuple"),
    (OtherChannels, {}, "has in_chans 3 where 2 was given"),
    (OtherStrides, {}, r"has strides \(8, 4\); they ascend, the finest map first"),
    (OneStrideTooFew, {}, r"has channels \(4, 8\) and strides \(4,\); give one of each"),
    (NoMaps, {}, r"has channels \(\) and strides \(\); give one of each"),
    (OtherStrides, {"strides": (8, 8)}, r"has strides \(8, 8\); they ascend, the finest map first"),
    (OtherStrides, {"strides": (0, 8)}, r"has strides \(0, 8\); set self\.strides to a tuple"),
    (NoSize, {}, r"has region_size None; set self\.region_size to a whole number of at least 1"),
    (SizeDoesNotDivide, {}, "has region_size 20, which stride 8 does not divide"),
    (SaysOtherStrides, {}, r"gives \(1, 4, 4, 4\), \(1, 8, 2, 2\) where \(1, 4, 8, 8\), \(1, 8, 2, 2\) belongs"),
    (GivesOneTensor, {}, "gives a Tensor on 1 of regions 16 × 16; forward returns a list of maps"),
    (GivesNone, {}, "gives nothing on"),
    (GivesNoMap, {}, r"gives nothing where \(1, 4, 4, 4\), \(1, 8, 2, 2\) belongs"),
    (DoublesMaps, {}, "turns float32 into torch.float64"),
    (ChangesRegions, {}, "changes what it is given"),
    (ViewsRegions, {}, "fails on inputs that are not contiguous in memory .*take reshape, not view"),
    (ViewsPlanes, {}, "fails on inputs that are not contiguous in memory .*take reshape, not view"),
    (ViewsPixels, {}, "fails on inputs that are not contiguous in memory .*take reshape, not view"),
    (ReadsMemory, {}, "answers otherwise to inputs that are not contiguous in memory"),
    (DropsInEval, {}, "is random in eval"),
    (CentresTheBatch, {}, "mixes regions of a batch: one gets another answer beside others than alone"),
    (BatchNorm, {}, "mixes regions of a batch in training, as batch norm does, so region_batch changes what is learned"),
    (SparesAnother, {}, "names position in no_weight_decay, which are no parameters"),
    (LeavesAParameter, {}, "has parameters without a gradient: position;"),
    (WeighsAParameterByZero, {}, "has parameters without a gradient: position;"),
    (DetachesAMap, {}, "gives a result without a gradient"),
    (DetachesRegions, {}, "gives no gradient to the input"),
    (StopsAtRegions, {}, "gives no gradient to the input"),
    (EndlessWhereNoData, {}, r"gives values that are not finite on zeros \(no data\)"),
    (EndlessGradientOfTheInput, {}, "gives a gradient to its input that is not finite"),
    (EndlessGradientOfAParameter, {}, "has gradients that are not finite on zeros"),
    (EndlessGradientWhereNoData, {}, "has gradients that are not finite on zeros"),
    (RegionsInFloat32, {}, "fails on bfloat16: RuntimeError"),
    (MapsInFloat32, {}, "turns bfloat16 into torch.float32"),
    (EndlessByAutocast, {}, "has gradients that are not finite in bfloat16 by autocast"),
    (DrawsRegions, {}, "answers otherwise after saving and loading"),
    (TakesAPath, {"weights": torch.ones(1)}, "cannot be saved and loaded: TypeError"),
    (ChangesRegionsInTraining, {}, "changes what it is given, in"),
    (KeepsTheFirstScale, {}, "answers otherwise after other inputs"),
    (KeepsTheType, {}, "answers otherwise after other inputs"),
    (ForgetsWhatItLearnt, {}, "answers otherwise after saving and loading"),
]  # fmt: skip
