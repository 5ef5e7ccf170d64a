"""Vision Mamba (Vim, arXiv 2401.09417) over all tokens: both directions in one block.

Different from the paper: no position embedding, class token in the middle or last norm, which are the model's matter.
The block is two readings, so that it streams: the first, backward, hands what it hears on to the second.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xt.models.causal_conv import convolve_piece
from xt.models.context.base import Memory
from xt.models.context.layered import LayeredContextEncoder, Reading
from xt.models.selective import Selective


class Direction(Selective):
    """Convolution and scan of one direction.

    Args:
        inner: Channels.
        dt_rank: Channels from which the step of each is made.
        d_state: States of a channel.
        d_conv: Taps of the convolution.
        reverse: From last to first.
    """

    def __init__(self, inner: int, dt_rank: int, d_state: int, d_conv: int, reverse: bool) -> None:
        super().__init__()
        self.reverse = reverse
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner)
        self.add_scan(inner, dt_rank, d_state)
        self.init_step()

    def forward(self, x: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Mix a segment ``(B, l, inner)``; memory is what the convolution still sees, and the state."""
        seen, state = memory or (None, None)
        x, seen = convolve_piece(self.conv1d, x, self.reverse, seen)
        y, state = self.scan(F.silu(x), None, self.reverse, state)
        return y, [seen, state]


class VimLayer(nn.Module):
    """``x + out((y_forward + y_backward) / 2 · SiLU(z))`` with ``y`` and ``z`` of ``RMSNorm(x)``.

    The residual stays in fp32. Both directions share the projections.

    Args:
        dim: Channels of a token.
        d_state: States of a channel.
        d_conv: Taps of the convolutions.
        expand: Inner width over ``dim``.
    """

    def __init__(self, dim: int, d_state: int, d_conv: int, expand: int) -> None:
        super().__init__()
        inner = expand * dim
        self.widths = [dim, inner]
        self.norm = nn.RMSNorm(dim, eps=1e-5)
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.backward_direction = Direction(inner, math.ceil(dim / 16), d_state, d_conv, True)
        self.forward_direction = Direction(inner, math.ceil(dim / 16), d_state, d_conv, False)
        self.out_proj = nn.Linear(inner, dim, bias=False)

    def listen(self, tokens: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Read a segment ``(B, l, D)`` backward: ``(B, l, D + inner)``, tokens and what was heard."""
        x = F.linear(self._normed(tokens), self.in_proj.weight[: self.widths[1]])
        heard, memory = self.backward_direction(x, memory)
        return torch.cat([_wide(tokens), _wide(heard)], dim=-1), memory

    def answer(self, given: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Read a segment ``(B, l, D + inner)`` forward: mixed tokens ``(B, l, D)``."""
        tokens, heard = torch.split(given, self.widths, dim=-1)
        x, z = self.in_proj(self._normed(tokens)).chunk(2, dim=-1)
        y, memory = self.forward_direction(x, memory)
        mixed = self.out_proj((y + heard.to(y.dtype)) / 2 * F.silu(z))
        return _wide(tokens) + mixed, memory

    def _normed(self, tokens: Tensor) -> Tensor:
        weight = self.norm.weight
        return F.rms_norm(tokens, weight.shape, weight.to(tokens.dtype), self.norm.eps).to(weight.dtype)


class Vim(LayeredContextEncoder):
    """Blocks that read backward and forward, and add both up.

    Between two sweeps over a scene on disk tokens have the type of the weights, and the residual with them.

    Args:
        dim: Channels of a token.
        depth: Blocks.
        d_state: States of a channel.
        d_conv: Taps of the convolutions.
        expand: Inner width over ``dim``.
    """

    family = "state space"

    def __init__(self, dim: int, depth: int = 2, d_state: int = 16, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        self.dim = dim
        # What was heard, input, gate, convolution, SiLU, step and output in the inner width.
        self.working_values = 8.0 * expand + 4.0
        self.layers = nn.ModuleList(VimLayer(dim, d_state, d_conv, expand) for _ in range(depth))

    @property
    def last_sees(self) -> bool:
        """Every block reads forward too."""
        return len(self.layers) > 0

    def readings(self) -> Sequence[Reading]:
        """Two for each block."""
        found = []
        for layer in cast(list[VimLayer], list(self.layers)):
            found += [Reading(layer.listen, True, sum(layer.widths)), Reading(layer.answer)]
        if found:
            found[-1] = Reading(self._finish)
        return found

    def _finish(self, given: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        last = cast(VimLayer, self.layers[-1])
        tokens, memory = last.answer(given, memory)
        return tokens.to(last.out_proj.weight.dtype), memory


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
