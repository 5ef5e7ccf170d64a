import pytest
import torch

from xt.errors import ModelError
from xt.models.decoders.base import DecoderInputs
from xt.models.decoders.unet import UNet


@pytest.mark.parametrize(
    ("strides", "out_stride"), [((4, 8, 16, 32), 2), ((4, 8, 16, 32), 4), ((2, 4, 8), 4), ((16,), 4)]
)
def test_halo_is_enough_and_not_twice_too_much(strides: tuple[int, ...], out_stride: int):
    torch.manual_seed(0)
    channels = tuple(range(4, 4 + len(strides)))
    decoder = UNet(DecoderInputs(2, channels, strides, 16), (4, 5, 6, 7), out_stride).double()
    size = 512

    def inputs() -> list[torch.Tensor]:
        maps = [torch.randn(1, 2, size, size, dtype=torch.float64)]
        maps += [
            torch.randn(1, c, size // s, size // s, dtype=torch.float64) for c, s in zip(channels, strides, strict=True)
        ]
        return [each.requires_grad_() for each in maps]

    tensors = inputs()
    out = decoder(tensors[0], tensors[1:])
    assert out.shape == (1, 4, size // out_stride, size // out_stride)
    # The farthest input that cell 256 px and its neighbour (bilinear upsampling) depend on.
    first = 256 // out_stride - 1
    out[..., first:, first:].sum().backward()
    reach = 0
    for tensor, stride in zip(tensors, (1, *strides), strict=True):
        if tensor.grad is None:
            continue
        rows = tensor.grad.abs().sum((0, 1, 3)).nonzero()
        reach = max(reach, 256 - int(rows.min()) * stride)
    assert reach <= decoder.halo
    assert decoder.halo <= 2 * reach


def test_errors_name_the_numbers():
    with pytest.raises(ModelError, match="4 levels"):
        UNet(DecoderInputs(2, (1, 2, 3, 4), (4, 8, 16, 32), 16), (8, 8))
    with pytest.raises(ModelError, match="out_stride 3"):
        UNet(DecoderInputs(2, (1, 2), (4, 8), 16), (8, 8), 3)
