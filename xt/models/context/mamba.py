"""Mamba over all tokens (xT, arXiv 2403.01915, as released; Mamba, arXiv 2312.00752)."""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from xt.models.context.base import Memory
from xt.models.context.layered import LayeredContextEncoder, Reading
from xt.models.selective import MambaMixer


class MambaLayer(nn.Module):
    """``LN(x) + Mamba(LN(x))``, from last to first if ``reverse``."""

    def __init__(self, dim: int, reverse: bool, d_state: int, d_conv: int, expand: int) -> None:
        super().__init__()
        self.reverse = reverse
        self.norm = nn.LayerNorm(dim, eps=1e-5)
        self.mixer = MambaMixer(dim, d_state, d_conv, expand)

    def forward(self, x: Tensor) -> Tensor:
        """Mix ``(B, L, D)``."""
        x = self.norm(x)
        out: Tensor = x + self.mixer(x, self.reverse)
        return out

    def piece(self, x: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Mix a segment ``(B, l, D)`` of the sequence; its memory is the mixer's."""
        x = self.norm(x)
        mixed, memory = self.mixer.step(x, self.reverse, memory)
        return x + mixed, memory


class Mamba(LayeredContextEncoder):
    """Layers that run backward and forward in turn, the first backward.

    Weight decay leaves ``A_log`` and ``D`` of each layer alone (:meth:`no_weight_decay`).

    Args:
        dim: Channels of a token.
        depth: Layers.
        d_state: States of a channel.
        d_conv: Taps of the convolution.
        expand: Inner width over ``dim``.
    """

    family = "state space"

    def __init__(self, dim: int, depth: int = 4, d_state: int = 16, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        self.dim = dim
        # In the mixer's inner width input, gate, what the convolution takes and gives, its SiLU, step and output.
        self.working_values = 7.0 * expand + 3.0
        self.layers = nn.ModuleList(MambaLayer(dim, i % 2 == 0, d_state, d_conv, expand) for i in range(depth))

    @property
    def last_sees(self) -> bool:
        """From the second layer on, the first that runs forward."""
        return len(self.layers) > 1

    def readings(self) -> Sequence[Reading]:
        """One for each layer."""
        layers = cast(list[MambaLayer], list(self.layers))
        return [Reading(layer.piece, layer.reverse, whole=layer) for layer in layers]
