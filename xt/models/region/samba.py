"""Samba (arXiv 2404.01705): a pyramid of Mamba blocks, as region encoder.

Different from the paper, or where it is silent: a stem of two 3 × 3 convolutions of stride 2, and one before each other
stage; LayerNorm over channels wherever a norm stands, so that regions do not influence each other; each stage ends with
a norm, whose result is both its map and what the next stage takes; the FFN is four times as wide. A Mamba reads the
tokens of its region in raster order, from the first to the last.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from einops import rearrange
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from xt.errors import ModelError
from xt.models.region.base import RegionEncoder
from xt.models.selective import MambaMixer, Selective


class SambaBlock(nn.Module):
    """``x + Mamba(LN(x))``, then ``x + FFN(LN(x))``; the FFN has a depthwise 3 × 3 convolution between its layers.

    Args:
        dim: Channels of a token.
        mlp_ratio: Inner width of the FFN over ``dim``.
        d_state: States of a channel.
        d_conv: Taps of the convolution along the tokens.
        expand: Inner width of the Mamba over ``dim``.
    """

    def __init__(self, dim: int, mlp_ratio: float, d_state: int, d_conv: int, expand: int) -> None:
        super().__init__()
        inner = int(dim * mlp_ratio)
        self.norm = nn.LayerNorm(dim, eps=1e-5)
        self.mixer = MambaMixer(dim, d_state, d_conv, expand)
        self.mlp_norm = nn.LayerNorm(dim, eps=1e-5)
        self.up_proj = nn.Linear(dim, inner)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.down_proj = nn.Linear(inner, dim)

    def forward(self, x: Tensor, width: int) -> Tensor:
        """Transform the tokens ``(N, h · width, D)`` of regions."""
        x = x + self.mixer(self.norm(x))
        inner = rearrange(self.up_proj(self.mlp_norm(x)), "n (h w) d -> n d h w", w=width)
        inner = rearrange(F.gelu(self.conv2d(inner)), "n d h w -> n (h w) d")
        out: Tensor = x + self.down_proj(inner)
        return out


class SambaStage(nn.Module):
    """Convolutions that make the map smaller, blocks, and a norm.

    Args:
        down: From the map before, or the image.
        blocks: Of one width.
        dim: That width.
    """

    def __init__(self, down: nn.Module, blocks: Sequence[SambaBlock], dim: int) -> None:
        super().__init__()
        self.down = down
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """Encode ``(N, C, H, W)`` into ``(N, D, h, w)``."""
        x = self.down(x)
        width = x.shape[-1]
        x = rearrange(x, "n d h w -> n (h w) d")
        for block in self.blocks:
            x = block(x, width)
        out: Tensor = rearrange(self.norm(x), "n (h w) d -> n d h w", w=width)
        return out


class Samba(RegionEncoder):
    """Stages at strides 4, 8, 16, ….

    Args:
        in_chans: Channels of the image.
        region_size: Side of a region in pixels; a multiple of the coarsest stride.
        dims: Channels of each stage.
        depths: Blocks of each stage.
        mlp_ratio: Inner width of the FFN over the channels.
        d_state: States of a channel.
        d_conv: Taps of the convolution along the tokens.
        expand: Inner width of the Mamba over the channels.

    Raises:
        ModelError: If sizes do not fit.
    """

    def __init__(
        self,
        in_chans: int,
        region_size: int = 256,
        dims: Sequence[int] = (64, 128, 320, 448),
        depths: Sequence[int] = (3, 4, 6, 3),
        mlp_ratio: float = 4.0,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
    ) -> None:
        super().__init__()
        if not dims or len(dims) != len(depths) or dims[0] % 2:
            raise ModelError(
                f"Samba: dims {list(dims)} need as many depths, got {list(depths)}, and an even number first"
            )
        self.in_chans = in_chans
        self.region_size = region_size
        self.channels = tuple(dims)
        self.strides = tuple(4 * 2**i for i in range(len(dims)))
        if region_size < 1 or region_size % self.strides[-1]:
            raise ModelError(
                f"Samba: region_size {region_size} does not divide by {self.strides[-1]}, the coarsest stride; "
                f"take {max(round(region_size / self.strides[-1]), 1) * self.strides[-1]}"
            )
        stages, before = [], 0
        for dim, depth in zip(dims, depths, strict=True):
            down = nn.Sequential(*_halving(before, dim)) if before else _stem(in_chans, dim)
            blocks = [SambaBlock(dim, mlp_ratio, d_state, d_conv, expand) for _ in range(depth)]
            stages.append(SambaStage(down, blocks, dim))
            before = dim
        self.stages = nn.ModuleList(stages)

    def forward(self, regions: Tensor) -> list[Tensor]:
        """Encode ``(N, C, R, R)`` into maps ``(N, channels[i], R / strides[i], R / strides[i])``."""
        maps: list[Tensor] = []
        for stage in self.stages:
            maps.append(stage(maps[-1] if maps else regions))
        return maps

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters of the recurrences."""
        mixers = {path: each for path, each in self.named_modules() if isinstance(each, Selective)}
        return {f"{path}.{name}" for path, mixer in mixers.items() for name in mixer.no_weight_decay()}


def _halving(in_chans: int, out_chans: int) -> list[nn.Module]:
    return [nn.Conv2d(in_chans, out_chans, 3, stride=2, padding=1), LayerNorm2d(out_chans)]


def _stem(in_chans: int, dim: int) -> nn.Module:
    return nn.Sequential(*_halving(in_chans, dim // 2), nn.GELU(), *_halving(dim // 2, dim))
