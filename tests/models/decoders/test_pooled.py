import math

import torch
from torch import Tensor

from xt.models.decoders.base import DecoderInputs
from xt.models.decoders.pooled import ClassToken, Pooled

INPUTS = DecoderInputs(3, (4,), (8,), 6)


def randomise(module: torch.nn.Module) -> None:
    torch.manual_seed(0)
    for p in module.double().parameters():
        torch.nn.init.normal_(p)


def layer_norm(norm: torch.nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return norm.weight * centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-5) + norm.bias


def test_class_token_is_the_last_one_normed():
    decoder = ClassToken(INPUTS)
    randomise(decoder)
    tokens = torch.randn(2, 5, 6, dtype=torch.float64)
    assert decoder.uses_class_token
    assert decoder.out_channels == 6
    torch.testing.assert_close(decoder(tokens), layer_norm(decoder.norm, tokens[:, 4]))


def test_pooled_is_mean_linear_gelu_norm():
    decoder = Pooled(INPUTS, 2)
    randomise(decoder)
    tokens = torch.randn(2, 5, 6, dtype=torch.float64)
    linear, _, norm = decoder.layers
    x = sum(tokens[:, i] for i in range(5)) / 5 @ linear.weight.T + linear.bias
    x = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    assert not decoder.uses_class_token
    assert decoder.out_channels == 12
    torch.testing.assert_close(decoder(tokens), layer_norm(norm, x))
    assert Pooled(INPUTS).out_channels == 24
