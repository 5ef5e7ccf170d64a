"""Small parts for model tests."""

import torch
from torch import Tensor, nn

from xt.geometry import order
from xt.geometry.grid import TokenLayout
from xt.models.context.base import ContextEncoder, Memory, Pass, RecurrentContextEncoder, SequentialContextEncoder
from xt.models.decoders.base import DecoderInputs
from xt.models.decoders.unet import UNet
from xt.models.region.timm_features import TimmFeatures
from xt.models.tokenization import permute
from xt.models.xt import XT


class MeanContext(ContextEncoder):
    """Every token sees the mean of all."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.linear = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        assert tokens.shape[1] == layout.num_tokens > 0
        mixed: Tensor = self.linear(tokens + tokens.mean(1, keepdim=True))
        return mixed


class Fading(RecurrentContextEncoder):
    """Every token sees a fading mean of those before it, region by region: exact over any cut into whole regions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.linear = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        return self.step(tokens, layout, None)[0]

    def step(self, tokens: Tensor, layout: TokenLayout, memory: Memory | None) -> tuple[Tensor, Memory]:
        regions = order.region_major(layout)
        state = memory[0] if memory else tokens.new_zeros(len(tokens), self.dim)
        seen = []
        for token in permute(tokens, regions).unbind(1):
            state = 0.8 * state + token
            seen.append(state)
        mixed = torch.stack(seen, 1) if seen else tokens
        return self.linear(permute(mixed, order.inverse(regions))), [state.detach()]


class BothWays(SequentialContextEncoder):
    """Every token sees fading means of those before and of those after it, added up before one projection."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.linear = nn.Linear(dim, dim)

    def passes(self) -> list[Pass]:
        return [Pass(self.backward_step, reverse=True, channels=2 * self.dim), Pass(self.forward_step)]

    def backward_step(self, tokens: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        heard, memory = fade(tokens.flip(1), memory)
        return torch.cat([tokens, heard.flip(1)], -1), memory

    def forward_step(self, tokens: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        tokens, heard = tokens.chunk(2, -1)
        own, memory = fade(tokens, memory)
        return self.linear(own + heard), memory


def fade(tokens: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
    """Fading mean over ``(B, l, D)`` from first to last."""
    state = memory[0] if memory else torch.zeros_like(tokens[:, 0])
    seen = []
    for token in tokens.unbind(1):
        state = 0.8 * state + token
        seen.append(state)
    return torch.stack(seen, 1), [state.detach()]


def small_encoder(region_size: int = 64, in_chans: int = 2) -> TimmFeatures:
    return TimmFeatures(
        name="convnext_atto",
        in_chans=in_chans,
        region_size=region_size,
        model_args={"dims": (8, 16, 24, 32), "depths": (1,) * 4},
    )


def decoder_inputs(encoder: TimmFeatures, dim: int = 16) -> DecoderInputs:
    return DecoderInputs(encoder.in_chans, encoder.channels, encoder.strides, dim)


def small_model(
    streaming: bool = True,
    region_batch: int = 3,
    decode_size: int = 64,
    out_stride: int = 2,
    context: ContextEncoder | None = None,
) -> XT:
    torch.manual_seed(0)
    encoder = small_encoder()
    decoder = UNet(decoder_inputs(encoder), (8, 12, 16, 20), out_stride)
    return XT(encoder, context or MeanContext(16), decoder, {"a": 1, "b": 2}, region_batch, decode_size, streaming)
