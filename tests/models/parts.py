"""Small parts for model tests."""

import torch
from torch import Tensor, nn

from xt.geometry.grid import TokenLayout
from xt.models.context.base import ContextEncoder
from xt.models.decoders.base import DecoderInputs
from xt.models.decoders.unet import UNet
from xt.models.region.timm_features import TimmFeatures
from xt.models.xt import XT


class MeanContext(ContextEncoder):
    """Every token sees the mean of all."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.linear = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        assert tokens.shape[1] == layout.num_tokens
        mixed: Tensor = self.linear(tokens + tokens.mean(1, keepdim=True))
        return mixed


def small_encoder(region_size: int = 64, in_chans: int = 2) -> TimmFeatures:
    return TimmFeatures(
        in_chans, "convnext_atto", region_size, model_args={"dims": (8, 16, 24, 32), "depths": (1,) * 4}
    )


def decoder_inputs(encoder: TimmFeatures, dim: int = 16) -> DecoderInputs:
    return DecoderInputs(encoder.in_chans, encoder.channels, encoder.strides, dim)


def small_model(streaming: bool = True, region_batch: int = 3, decode_size: int = 64, out_stride: int = 2) -> XT:
    torch.manual_seed(0)
    encoder = small_encoder()
    decoder = UNet(decoder_inputs(encoder), (8, 12, 16, 20), out_stride)
    return XT(encoder, MeanContext(16), decoder, {"a": 1, "b": 2}, region_batch, decode_size, streaming)
