"""Decoders with one fault each, and the words by which the kit must name it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xt.geometry.grid import Window
from xt.models.decoders.base import DecoderInputs, DenseDecoder, PooledDecoder


class SoundMap(DenseDecoder):
    """A 3 × 3 convolution of the coarsest map, and one of the finest at its stride."""

    def __init__(self, inputs: DecoderInputs) -> None:
        super().__init__()
        self.stride, self.out_channels, self.halo = inputs.strides[0], 4, inputs.strides[-1]
        self.factor = inputs.strides[-1] // inputs.strides[0]
        self.coarse = nn.Conv2d(inputs.channels[-1], 4, 1)
        self.fine = nn.Conv2d(inputs.channels[0], 4, 3, padding=1)

    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        coarse = F.interpolate(self.coarse(pyramid[-1]), scale_factor=self.factor)
        return F.silu(coarse) + self.fine(pyramid[0])


class SoundGlobal(SoundMap):
    """The mean of the whole image has its place in prepare."""

    def prepare(self, pyramid: Sequence[Tensor]) -> Sequence[Tensor]:
        *finer, last = pyramid
        return [*finer, last + last.mean((2, 3), keepdim=True)]


class SoundVector(PooledDecoder):
    """The mean over the tokens."""

    uses_class_token = False

    def __init__(self, inputs: DecoderInputs) -> None:
        super().__init__()
        self.out_channels = inputs.dim
        self.norm = nn.LayerNorm(inputs.dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(tokens.mean(1))


class NoDecoder(nn.Module):
    pass


class NoHalo(SoundMap):
    def __init__(self, inputs: DecoderInputs) -> None:
        super().__init__(inputs)
        del self.halo


class HaloOfTheFinest(SoundMap):
    def __init__(self, inputs: DecoderInputs) -> None:
        super().__init__(inputs)
        self.halo = 20


class NoChannels(SoundMap):
    def __init__(self, inputs: DecoderInputs) -> None:
        super().__init__(inputs)
        del self.out_channels


class StrideDoesNotDivide(SoundMap):
    def __init__(self, inputs: DecoderInputs, stride: int = 3) -> None:
        super().__init__(inputs)
        self.stride = stride


class SaysOtherStride(SoundMap):
    def __init__(self, inputs: DecoderInputs) -> None:
        super().__init__(inputs)
        self.stride = 2


class DropsAMap(SoundMap):
    def prepare(self, pyramid: Sequence[Tensor]) -> Sequence[Tensor]:
        return pyramid[1:]


class HalvesAMap(SoundMap):
    def prepare(self, pyramid: Sequence[Tensor]) -> Sequence[Tensor]:
        return [F.avg_pool2d(pyramid[0], 2), *pyramid[1:]]


class FailsInPrepare(SoundMap):
    def prepare(self, pyramid: Sequence[Tensor]) -> Sequence[Tensor]:
        raise ValueError("no idea")


class SquareMapsOnly(SoundMap):
    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        return super().forward(image, [each + 0 * each.mT for each in pyramid])


class HaloTooSmall(SoundMap):
    def __init__(self, inputs: DecoderInputs) -> None:
        super().__init__(inputs)
        self.coarse = nn.Conv2d(inputs.channels[-1], 4, 5, padding=2)


class NoHaloAtAll(SoundMap):
    def __init__(self, inputs: DecoderInputs) -> None:
        super().__init__(inputs)
        self.halo = 0


class ForgetsTheUpsampling(SoundMap):
    def __init__(self, inputs: DecoderInputs) -> None:
        super().__init__(inputs)
        self.halo, self.fine = 0, nn.Conv2d(inputs.channels[0], 4, 1)


class ReadsAbove(SoundMap):
    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        return super().forward(image, [pyramid[0], F.pad(pyramid[-1], (0, 0, 2, 0))[..., :-2, :]])


class ReadsToTheRight(SoundMap):
    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        return super().forward(image, [pyramid[0], F.pad(pyramid[-1], (0, 2))[..., 2:]])


class ReadsTheImageFar(SoundMap):
    def __init__(self, inputs: DecoderInputs) -> None:
        super().__init__(inputs)
        self.pixels = nn.Conv2d(inputs.in_chans, 4, 41, 4, 20)

    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        return super().forward(image, pyramid) + self.pixels(image)


class InstanceNorm(SoundMap):
    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        return F.instance_norm(super().forward(image, pyramid))


class GroupNorm(SoundMap):
    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        return F.group_norm(super().forward(image, pyramid), 2)


class PoolsInForward(SoundMap):
    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        found = super().forward(image, pyramid)
        return found + found.mean((2, 3), keepdim=True)


class PoolsWithoutAGradient(SoundMap):
    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        return super().forward(image, pyramid) + pyramid[-1].detach().mean((1, 2, 3), keepdim=True)


class CountsPlaces(SoundMap):
    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        found = super().forward(image, pyramid)
        return found + torch.linspace(0, 1, found.shape[-1]).to(found)


class WrapsAround(SoundMap):
    def __init__(self, inputs: DecoderInputs) -> None:
        super().__init__(inputs)
        self.fine = nn.Conv2d(inputs.channels[0], 4, 3, padding=1, padding_mode="circular")


class MapBatchNorm(SoundMap):
    def __init__(self, inputs: DecoderInputs) -> None:
        super().__init__(inputs)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        return self.norm(super().forward(image, pyramid))


class InPixels(SoundMap):
    takes_window = True

    def forward(self, image: Tensor, pyramid: Sequence[Tensor], window: Window | None = None) -> Tensor:
        found = super().forward(image, pyramid)
        return found if window is None else found[(..., *window.coarsened(self.stride).slices)]


class StartsAtTheCorner(SoundMap):
    takes_window = True

    def forward(self, image: Tensor, pyramid: Sequence[Tensor], window: Window | None = None) -> Tensor:
        found = super().forward(image, pyramid)
        return found if window is None else found[..., : window.height, : window.width]


class CutsAfterwards(SoundMap):
    takes_window = True

    def forward(self, image: Tensor, pyramid: Sequence[Tensor], window: Window | None = None) -> Tensor:
        found = super().forward(image, pyramid)
        return found if window is None else found[(..., *window.slices)]


class TakesNoWindow(SoundMap):
    takes_window = True


class ForgetsTheContext(SoundMap):
    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        return super().forward(image, [pyramid[0], pyramid[-1].detach()])


class EndlessOnSkippedRegions(SoundMap):
    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        return super().forward(image, [pyramid[0], pyramid[-1] / pyramid[-1].norm(dim=1, keepdim=True)])


class DrawsADecoder(SoundMap):
    def __init__(self, inputs: DecoderInputs) -> None:
        super().__init__(inputs)
        self.drawn = float(torch.randn(()))

    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        return self.drawn * super().forward(image, pyramid)


class GivesTokens(SoundVector):
    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(tokens)


class Deviation(SoundVector):
    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(tokens.mean(1) / tokens.std(1))


class SaysNothing(SoundVector):
    uses_class_token = None


class ReadsTheLast(SoundVector):
    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(tokens[:, -1])


class IgnoresTheClassToken(SoundVector):
    uses_class_token = True

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(tokens[:, :-1].mean(1) if tokens.shape[1] > 1 else tokens[:, 0])


class CentresImages(SoundVector):
    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(tokens.mean(1) + tokens.mean((0, 1)))


FAULTS: list[tuple[type, dict, str]] = [
    (NoDecoder, {}, "is no subclass of DenseDecoder or PooledDecoder; derive"),
    (NoHalo, {}, r"has halo None; set self\.halo to a whole number of at least 0"),
    (HaloOfTheFinest, {}, "has halo 20, no multiple of 16, the coarsest stride; round it up, to 32"),
    (StrideDoesNotDivide, {"stride": 0}, r"has stride 0; set self\.stride to a whole number of at least 1"),
    (StrideDoesNotDivide, {"stride": True}, r"has stride True; set self\.stride to a whole number of at least 1"),
    (NoChannels, {}, r"has out_channels None; set self\.out_channels to a whole number of at least 1"),
    (StrideDoesNotDivide, {}, "has stride 3, which does not divide 16"),
    (SaysOtherStride, {}, r"gives \(1, 4, 4, 4\) where \(1, 4, 8, 8\) belongs, on 16 × 16 px; forward returns one map"),
    (DropsAMap, {}, r"prepares maps of \(2, 2\), \(1, 1\) from \(4, 4\), .*as many maps"),
    (HalvesAMap, {}, r"prepares maps of \(2, 2\), \(2, 2\), \(1, 1\) from \(4, 4\), .*each as high and wide"),
    (FailsInPrepare, {}, r"fails in prepare\(\): ValueError: no idea; any height and width"),
    (SquareMapsOnly, {}, "fails on 64 × 96 px: RuntimeError: .*any height and width"),
    (HaloTooSmall, {}, "reads 48 px away where its halo is 16: .*raise halo to 48"),
    (NoHaloAtAll, {}, r"reads \d+ px away where its halo is 0: .*raise halo to 16"),
    (ForgetsTheUpsampling, {}, r"reads \d+ px away where its halo is 0: .*raise halo to 16"),
    (ReadsAbove, {}, r"reads \d+ px away where its halo is 16: .*raise halo to 48"),
    (ReadsToTheRight, {}, r"reads \d+ px away where its halo is 16: .*raise halo to 48"),
    (ReadsTheImageFar, {}, r"reads \d+ px away where its halo is 16: .*raise halo to 32"),
    (InstanceNorm, {}, r"reads \d+ px away and more, the whole image maybe, .*prepare\(\)"),
    (GroupNorm, {}, r"reads \d+ px away and more, the whole image maybe, .*prepare\(\)"),
    (PoolsInForward, {}, r"reads \d+ px away and more, the whole image maybe, .*prepare\(\)"),
    (PoolsWithoutAGradient, {}, r"is [\d.]+% off in tiles of \d+ px of an image of .*statistics: move that to prepare"),
    (CountsPlaces, {}, r"is [\d.]+% off in tiles of 32 px of an image of 61 × 111, .*where a cell lies in the tile"),
    (WrapsAround, {}, r"reads \d+ px away and more, the whole image maybe"),
    (MapBatchNorm, {}, "mixes images of a batch in training, as batch norm does; take LayerNorm"),
    (InPixels, {}, r"takes_window, but for Window\(.*cells of the map are counted, not pixels"),
    (StartsAtTheCorner, {}, r"takes_window, but for Window\(.*another answer than that part"),
    (CutsAfterwards, {}, "takes_window, but computes the whole map for one cell"),
    (TakesNoWindow, {}, r"fails on Window\(.*TypeError: .*forward takes a window of cells"),
    (ForgetsTheContext, {}, "gives no gradient to the coarsest map, where the context speaks"),
    (EndlessOnSkippedRegions, {}, r"gives values that are not finite on zeros \(no data\)"),
    (DrawsADecoder, {}, "answers otherwise after saving and loading"),
    (GivesTokens, {}, r"gives \(2, 1, 32\) where \(2, 32\) belongs, on one token; forward returns one vector"),
    (Deviation, {}, "gives values that are not finite on one token"),
    (SaysNothing, {}, "has uses_class_token None; set it to True or False"),
    (ReadsTheLast, {}, "has uses_class_token False, but reads the last token alone"),
    (IgnoresTheClassToken, {}, "has uses_class_token True, but ignores that token"),
    (CentresImages, {}, "mixes images of a batch: one gets another answer"),
]  # fmt: skip
