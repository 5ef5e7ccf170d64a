import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xt.models.decoders.upsampled import UpsampledConv2d


def literally(conv: nn.Conv2d, x: Tensor, factor: int) -> Tensor:
    wide = F.interpolate(x, scale_factor=float(factor), mode="nearest")
    return F.conv2d(wide, conv.weight, conv.bias, padding=1)


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 2)])
def test_it_is_upsampling_and_a_convolution(factor: int, size: tuple[int, int]):
    torch.manual_seed(0)
    conv = UpsampledConv2d(3, 5, factor).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    want, found = literally(conv, x, factor), conv(x)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(want)
    inputs = (x, conv.weight, conv.bias)
    for each, other in zip(
        torch.autograd.grad(found, inputs, grad), torch.autograd.grad(want, inputs, grad), strict=True
    ):
        torch.testing.assert_close(each, other, rtol=1e-12, atol=1e-12)


def test_it_has_the_state_of_a_plain_convolution():
    plain, conv = nn.Conv2d(3, 5, 3, padding=1), UpsampledConv2d(3, 5, 2)
    conv.load_state_dict(plain.state_dict())
    assert conv.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(conv(x), literally(plain, x, 2), rtol=1e-5, atol=1e-5)


def test_bf16_is_as_exact_as_bf16_is():
    torch.manual_seed(0)
    conv, x = UpsampledConv2d(64, 32, 2), torch.randn(1, 64, 9, 7)
    with torch.autocast("cpu", torch.bfloat16):
        found = conv(x)
    assert found.dtype == torch.bfloat16
    want = literally(conv, x, 2)
    assert (found.float() - want).abs().max() < 0.02 * want.abs().max()
