import math

import pytest
import torch
import torch.nn.functional as F
from parts import MeanContext, decoder_inputs, small_encoder
from torch import Tensor, nn

from xt.errors import ModelError
from xt.geometry.grid import Window
from xt.models.decoders.base import DecoderInputs
from xt.models.decoders.upernet import UPerNet
from xt.models.xt import XT

STRIDES = (4, 8, 16, 32)


def make(strides: tuple[int, ...] = STRIDES, channels: int = 6, pools: tuple[int, ...] = (1, 2, 3)) -> UPerNet:
    torch.manual_seed(0)
    decoder = UPerNet(DecoderInputs(2, tuple(range(4, 4 + len(strides))), strides, 16), channels, pools).double()
    with torch.no_grad():
        for p in decoder.parameters():
            p.add_(0.2 * torch.randn(p.shape, dtype=p.dtype))
    return decoder


def maps(strides: tuple[int, ...], height: int, width: int, batch: int = 1) -> list[Tensor]:
    g = torch.Generator().manual_seed(1)
    shapes = [(batch, 4 + i, height // s, width // s) for i, s in enumerate(strides)]
    return [torch.randn(shape, generator=g, dtype=torch.float64).requires_grad_() for shape in shapes]


def layer(each: nn.Module, x: Tensor) -> Tensor:
    """Taps over zeros outside, then each cell's channels to mean 0 and variance 1, gain, bias, ReLU."""
    size = each.conv.weight.shape[-1]
    height, width = x.shape[-2:]
    padded = x.new_zeros(*x.shape[:2], height + size - 1, width + size - 1)
    padded[..., size // 2 : size // 2 + height, size // 2 : size // 2 + width] = x
    total = each.conv.bias[:, None, None]
    for i in range(size):
        for j in range(size):
            taken = padded[..., i : i + height, j : j + width]
            total = total + torch.einsum("oc,bchw->bohw", each.conv.weight[:, :, i, j], taken)
    centred = total - total.mean(1, keepdim=True)
    normed = centred / torch.sqrt(centred.square().mean(1, keepdim=True) + each.norm.eps)
    return (normed * each.norm.weight[:, None, None] + each.norm.bias[:, None, None]).clamp(min=0)


def bilinear(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Weights of two neighbours along each axis; the outermost cells go on."""
    for axis, num in zip((2, 3), size, strict=True):
        rows = []
        for i in range(num):
            at = max((i + 0.5) * x.shape[axis] / num - 0.5, 0)
            low = min(math.floor(at), x.shape[axis] - 1)
            high = min(low + 1, x.shape[axis] - 1)
            rows.append(x.select(axis, low) * (low + 1 - at) + x.select(axis, high) * (at - low))
        x = torch.stack(rows, axis)
    return x


def mean_grid(x: Tensor, size: int) -> Tensor:
    """Mean of each cell of a ``size`` × ``size`` grid; cells of a small map overlap."""
    cuts = [[(i * n // size, -(-(i + 1) * n // size)) for i in range(size)] for n in x.shape[-2:]]
    rows = [torch.stack([x[..., a:b, c:d].mean((2, 3)) for c, d in cuts[1]], -1) for a, b in cuts[0]]
    return torch.stack(rows, -2)


def literal(decoder: UPerNet, pyramid: list[Tensor], pools: tuple[int, ...]) -> Tensor:
    *finer, last = pyramid
    grids = [
        bilinear(layer(each, mean_grid(last, n)), last.shape[-2:])
        for n, each in zip(pools, decoder.pooled, strict=True)
    ]
    sums = [layer(decoder.bottleneck, torch.cat([last, *grids], 1))]
    for index in range(len(finer) - 1, -1, -1):
        lateral = layer(decoder.laterals[index], finer[index])
        sums.append(lateral + bilinear(sums[-1], finer[index].shape[-2:]))
    levels = [sums[0], *(layer(decoder.smooth[len(finer) - n], sums[n]) for n in range(1, len(sums)))]
    return layer(decoder.fuse, torch.cat([bilinear(each, pyramid[0].shape[-2:]) for each in levels[::-1]], 1))


@pytest.mark.parametrize(
    ("strides", "pools"), [(STRIDES, (1, 2, 3, 6)), ((4, 16), (1, 2)), ((7, 14), ()), ((16,), (1, 2, 3, 6))]
)
def test_forward_and_gradients_follow_the_recipe(strides: tuple[int, ...], pools: tuple[int, ...]):
    decoder = make(strides, pools=pools)
    pyramid = maps(strides, 4 * strides[-1], 5 * strides[-1], 2)
    out = decoder(torch.empty(0), decoder.prepare(pyramid))
    want = literal(decoder, pyramid, pools)
    torch.testing.assert_close(out, want, rtol=1e-9, atol=1e-9)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=out.dtype)
    leaves = [*pyramid, *decoder.parameters()]
    got, expected = (torch.autograd.grad((weight * each).sum(), leaves) for each in (out, want))
    for a, b in zip(got, expected, strict=True):
        assert b.abs().sum() > 0
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("strides", [STRIDES, (2, 4, 8), (4, 16), (4, 32), (16,), (14, 28), (3, 9, 45)])
def test_halo_is_enough_and_not_twice_too_much(strides: tuple[int, ...]):
    decoder = make(strides)
    middle = 6 * strides[-1]
    tensors = maps(strides, 2 * middle, 2 * middle)
    out = decoder(torch.empty(0), as_prepared(tensors, decoder.out_channels))
    assert out.shape == (1, decoder.out_channels, 2 * middle // strides[0], 2 * middle // strides[0])
    # The farthest input that the middle cell and its neighbour (bilinear upsampling) depend on.
    first = middle // strides[0] - 1
    out[..., first:, first:].sum().backward()
    found = [each.grad.abs().sum((0, 1, 3)).nonzero() for each in tensors]
    reach = max(middle - int(rows.min()) * stride for rows, stride in zip(found, strides, strict=True))
    assert reach <= decoder.halo < 2 * reach + strides[-1]
    assert decoder.halo % strides[-1] == 0


def as_prepared(pyramid: list[Tensor], width: int) -> list[Tensor]:
    """A pyramid as if prepared, without what is global."""
    *finer, last = pyramid
    return [*finer, last[:, torch.arange(width) % last.shape[1]] * torch.arange(1, width + 1)[:, None, None]]


def model(decode_size: int, streaming: bool) -> XT:
    torch.manual_seed(0)
    encoder = small_encoder()
    decoder = UPerNet(decoder_inputs(encoder), 8)
    return XT(encoder, MeanContext(16), decoder, {"a": 1, "b": 2}, 3, decode_size, streaming)


def sample() -> tuple[Tensor, Tensor]:
    """Images that are no multiple of the region size, some regions skipped."""
    x = torch.randn(2, 2, 150, 201, generator=torch.Generator().manual_seed(3))
    valid = torch.ones(2, 1, 150, 201, dtype=torch.bool)
    valid[0, :, :64, :64] = False
    valid[1, :, -40:, 128:] = False
    return x * valid, valid


def test_tiles_and_windows_are_the_whole():
    cut, (x, valid) = model(32, True).eval(), sample()
    with torch.no_grad():
        pyramid = cut.prepare(cut.mix(cut.encode(x, valid)))
        features = cut.decoder(x, pyramid.maps)
        size = pyramid.grid.padded_height, pyramid.grid.padded_width
        whole = {name: F.interpolate(head(features), size, mode="bilinear") for name, head in cut.heads.items()}
        for window in (None, Window(30, 50, 101, 120), Window(149, 200, 1, 1)):
            inside = (..., *(window or pyramid.grid.whole).slices)
            for name, each in cut.decode(pyramid, window).items():
                torch.testing.assert_close(each, whole[name][inside], rtol=1e-4, atol=1e-5)
        without = cut.decode(cut.prepare(cut.mix(cut.encode(x[..., :64], valid[..., :64]))))
    # What lies outside a part is seen through the pooled grids, so the part by itself is another image.
    assert (without["a"] - whole["a"][..., :150, :64]).abs().max() > 1e-3


def test_gradients_of_tiles_are_those_of_plain_autograd():
    found = []
    for each in (model(32, True), model(1024, False)):
        x, valid = sample()
        sum((out * torch.linspace(0, 1, 201)).sum() for out in each(x, valid).values()).backward()
        found.append({name: p.grad for name, p in each.named_parameters()})
    for name, want in found[1].items():
        assert want.norm() > 0, name
        assert (found[0][name] - want).norm() <= 1e-4 * want.norm() + 1e-4, name


def test_bf16_and_a_map_of_one_cell():
    decoder = make().bfloat16()
    pyramid = [each.detach().bfloat16() for each in maps(STRIDES, 32, 32)]
    out = decoder(torch.empty(0), decoder.prepare(pyramid))
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()


def test_defaults_are_those_of_samba():
    with torch.device("meta"):
        decoder = UPerNet(DecoderInputs(3, (64, 128, 320, 448), STRIDES, 16))
    assert decoder.out_channels == 512
    assert decoder.pools == (1, 2, 3, 6)
    assert decoder.stride == 4
    assert not decoder.is_local
    assert decoder.bottleneck.conv.weight.shape == (512, 448 + 4 * 512, 3, 3)


@pytest.mark.parametrize(
    ("strides", "channels", "pools", "message"),
    [
        ((4, 6), 8, (1,), r"each divides the next, got \(4, 6\)"),
        ((8, 8), 8, (1,), "each divides the next"),
        (STRIDES, 0, (1,), r"channels 0 and pools \[1\]"),
        (STRIDES, 8, (1, 0), r"channels 8 and pools \[1, 0\]"),
    ],
)
def test_what_cannot_work_is_refused_with_the_numbers(strides: tuple, channels: int, pools: tuple, message: str):
    with pytest.raises(ModelError, match=message):
        UPerNet(DecoderInputs(2, (3,) * len(strides), strides, 16), channels, pools)
