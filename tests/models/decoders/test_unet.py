import pytest
import torch
from torch import Tensor

from xt.errors import ModelError
from xt.geometry.grid import Window
from xt.models.decoders.base import DecoderInputs
from xt.models.decoders.unet import UNet

STRIDES = (4, 8, 16, 32)
CASES = [
    *((STRIDES, out) for out in (1, 2, 4, 8, 16, 32)),
    *(((2, 4, 8), out) for out in (1, 2, 4, 8)),
    *(((16,), out) for out in (1, 4, 16)),
    *(((4, 16), out) for out in (2, 4, 8, 16)),
    *(((14, 28), out) for out in (7, 14, 28)),
]


def make(strides: tuple[int, ...], out_stride: int) -> UNet:
    torch.manual_seed(0)
    channels = tuple(range(4, 4 + len(strides)))
    return UNet(DecoderInputs(2, channels, strides, 16), (4, 5, 6, 7, 8, 9), out_stride).double()


def inputs(decoder: UNet, size: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(1)
    strides = decoder._strides
    shapes = [(2, size), *((4 + i, size // s) for i, s in enumerate(strides))]
    return [torch.randn(1, c, n, n, generator=g, dtype=torch.float64).requires_grad_() for c, n in shapes]


@pytest.mark.parametrize(("strides", "out_stride"), CASES)
def test_halo_is_enough_and_not_twice_too_much(strides: tuple[int, ...], out_stride: int):
    decoder = make(strides, out_stride)
    size = 18 * strides[-1]
    middle = 9 * strides[-1]
    tensors = inputs(decoder, size)
    out = decoder(tensors[0], tensors[1:])
    assert decoder.stride == out_stride
    assert out.shape == (1, decoder.out_channels, size // out_stride, size // out_stride)
    # The farthest input that the middle cell and its neighbour (bilinear upsampling) depend on.
    first = middle // out_stride - 1
    out[..., first:, first:].sum().backward()
    reach = 0
    for tensor, stride in zip(tensors, (1, *strides), strict=True):
        if tensor.grad is None:
            continue
        rows = tensor.grad.abs().sum((0, 1, 3)).nonzero()
        reach = max(reach, middle - int(rows.min()) * stride)
    assert reach <= decoder.halo
    assert decoder.halo <= 2 * reach
    assert decoder.halo % strides[-1] == 0


def silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def convolve(conv: torch.nn.Conv2d, x: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
    """Cross-correlation, tap by tap, over zeros outside."""
    size = conv.weight.shape[-1]
    height, width = ((n + 2 * padding - size) // stride + 1 for n in x.shape[-2:])
    padded = x.new_zeros(*x.shape[:2], x.shape[2] + 2 * padding, x.shape[3] + 2 * padding)
    padded[..., padding : padding + x.shape[2], padding : padding + x.shape[3]] = x
    total = conv.bias[None, :, None, None].expand(len(x), -1, height, width)
    for i in range(size):
        for j in range(size):
            taken = padded[..., i : i + stride * height : stride, j : j + stride * width : stride]
            total = total + torch.einsum("oc,bchw->bohw", conv.weight[:, :, i, j], taken)
    return total


def literal(decoder: UNet, tensors: list[Tensor], strides: tuple[int, ...], levels: list[int], stem: int) -> Tensor:
    """The recipe: nearest upsampling, convolution and SiLU, join the skip, convolution and SiLU."""
    image, pyramid = tensors[0], dict(zip(strides, tensors[1:], strict=True))
    x, stride = pyramid.pop(strides[-1]), strides[-1]
    for level, block in zip(levels, decoder.blocks, strict=True):
        up = [i // (stride // level) for i in range(x.shape[-1] * stride // level)]
        stride = level
        x = silu(convolve(block.up, x[..., up, :][..., up]))
        if level == stem:
            small = (level, 1) if level <= 2 else (level, 0)
            x = torch.cat([x, silu(convolve(decoder.stem.conv, image, *small))], 1)
        elif level in pyramid:
            x = torch.cat([x, pyramid[level]], 1)
        x = silu(convolve(block.join, x))
    return x


@pytest.mark.parametrize(
    ("strides", "out_stride", "levels", "stem"),
    [
        (STRIDES, 2, [16, 8, 4, 2], 2),
        (STRIDES, 1, [16, 8, 4, 2, 1], 1),
        (STRIDES, 4, [16, 8, 4], 0),
        (STRIDES, 16, [16], 0),
        (STRIDES, 32, [32], 0),
        ((16,), 4, [8, 4], 4),
        ((4, 16), 8, [8], 0),
        ((4, 16), 2, [4, 2], 2),
    ],
)
def test_forward_and_gradients_follow_the_recipe(strides: tuple[int, ...], out_stride: int, levels: list, stem: int):
    decoder = make(strides, out_stride)
    with torch.no_grad():
        for p in decoder.parameters():
            p.add_(0.3 * torch.randn(p.shape, dtype=p.dtype))
    tensors = inputs(decoder, 64)
    out, want = decoder(tensors[0], tensors[1:]), literal(decoder, tensors, strides, levels, stem)
    torch.testing.assert_close(out, want, rtol=1e-9, atol=1e-9)
    weight = torch.randn_like(out)
    leaves = [*tensors, *decoder.parameters()]
    got, expected = (torch.autograd.grad((weight * each).sum(), leaves, materialize_grads=True) for each in (out, want))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
    assert all(each.abs().sum() > 0 for each in got[len(tensors) :])


@pytest.mark.parametrize(("strides", "out_stride"), CASES)
def test_a_window_is_that_of_the_whole_and_the_rest_is_not_computed(strides: tuple[int, ...], out_stride: int):
    decoder = make(strides, out_stride)
    tensors = inputs(decoder, 12 * strides[-1])
    whole = decoder(tensors[0], tensors[1:])
    side, cells = whole.shape[-1], []
    for block in decoder.blocks:
        block.register_forward_hook(lambda module, inputs, output: cells.append(output.shape[-2:].numel()))
    decoder(tensors[0], tensors[1:])
    everything, windows = sum(cells), [(0, 0, 1, 1), (side - 2, 3, 2, side - 3), (side // 2, side // 3, 1, 2)]
    for row, col, height, width in windows:
        cells.clear()
        window = Window(row, col, height, width)
        got = decoder(tensors[0], tensors[1:], window)
        torch.testing.assert_close(got, whole[(..., *window.slices)], rtol=1e-10, atol=1e-10)
        assert sum(cells) < everything / 2


def test_filters_are_finest_first_and_weights_keep_the_scale():
    decoder = UNet(DecoderInputs(2, (8, 16, 24, 32), STRIDES, 16), (12, 24, 36, 48))
    assert [block.join.weight.shape[0] for block in decoder.blocks] == [48, 36, 24, 12]
    assert decoder.out_channels == 12
    assert decoder.stride == 2
    for block in decoder.blocks:
        for conv in (block.up, block.join):
            assert not conv.bias.any()
            assert float(conv.weight.detach().std()) == pytest.approx((2 / conv.weight[0].numel()) ** 0.5, rel=0.1)


def test_prepare_is_the_identity():
    decoder = make(STRIDES, 2)
    pyramid = inputs(decoder, 64)[1:]
    assert all(a is b for a, b in zip(decoder.prepare(pyramid), pyramid, strict=True))


@pytest.mark.parametrize(
    ("strides", "filters", "out_stride", "message"),
    [
        (STRIDES, (8, 8), 2, r"4 levels .* got \[8, 8\]"),
        (STRIDES, (8, 8, 8, 8), 1, "5 levels"),
        (STRIDES, (8, 0, 8, 8), 2, "each at least 1"),
        (STRIDES, (8, 8, 8, 8), 3, r"out_stride 3 from strides .* take one of 1, 2, 4, 8, 16, 32"),
        (STRIDES, (8, 8, 8, 8), 64, "out_stride 64"),
        (STRIDES, (8, 8, 8, 8), 0, "out_stride 0"),
        (STRIDES, (8, 8, 8, 8), -2, "out_stride -2"),
        ((7, 14), (8, 8, 8, 8), 1, "out_stride 1 .* take one of 7, 14"),
        ((4, 6), (8, 8, 8, 8), 4, "each divides the next"),
        ((8, 8), (8, 8, 8, 8), 4, "each divides the next"),
    ],
)
def test_what_cannot_work_is_refused_with_the_numbers(strides: tuple, filters: tuple, out_stride: int, message: str):
    with pytest.raises(ModelError, match=message):
        UNet(DecoderInputs(2, (3,) * len(strides), strides, 16), filters, out_stride)
