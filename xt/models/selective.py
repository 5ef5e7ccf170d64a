"""What encoders with a selective state space share: S6 itself, and the mixer of Mamba."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xt.models.causal_conv import convolve, convolve_piece
from xt_kernels.selective_scan import selective_scan_channels_last


def init_step_bias(bias: Tensor) -> None:
    """Let softplus(bias) be log-uniform in [1e-3, 1e-1]."""
    low, high = math.log(1e-3), math.log(1e-1)
    step = (torch.rand_like(bias) * (high - low) + low).exp()
    with torch.no_grad():
        bias.copy_(step + torch.log(-torch.expm1(-step)))


class Selective(nn.Module):
    """S6 (arXiv 2312.00752): the scan whose step, input and output weights are read from the tokens themselves.

    A base: the constructor of a class calls :meth:`add_scan` and :meth:`init_step`, between its own layers if it has
    some. Weight decay must leave ``A_log`` and ``D`` alone: it would pull every state to one rate of forgetting.
    """

    def add_scan(self, inner: int, dt_rank: int, d_state: int) -> None:
        """Add the parameters of the scan.

        Args:
            inner: Channels that are scanned.
            dt_rank: Channels from which the step of each is made.
            d_state: States of a channel.
        """
        self.dt_rank = dt_rank
        self.d_state = d_state
        self.x_proj = nn.Linear(inner, dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(dt_rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))

    def init_step(self) -> None:
        """Set the start of the step."""
        bound = self.dt_rank**-0.5
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        init_step_bias(self.dt_proj.bias)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters of the recurrence."""
        return {"A_log", "D"}

    def weights(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read step ``(B, L, dt_rank)``, input and output weights ``(B, L, d_state)`` from ``(B, L, inner)``."""
        step, b, c = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        return step, b, c

    def scan(self, x: Tensor, z: Tensor | None, reverse: bool, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Scan ``x (B, L, inner)``, times SiLU(z) if there is a gate.

        Returns:
            ``(B, L, inner)`` and the last state ``(B, inner, d_state)``.
        """
        step, b, c = self.weights(x)
        rates = self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32))
        y, last = selective_scan_channels_last(
            x,
            F.linear(step, self.dt_proj.weight),
            -rates.exp(),
            b,
            c,
            self.D,
            z,
            delta_bias=self.dt_proj.bias,
            delta_softplus=True,
            initial_state=state,
            return_last_state=True,
            reverse=reverse,
        )
        return y, last


class S6(Selective):
    """The scan by itself.

    Args:
        inner: Channels that are scanned.
        dt_rank: Channels from which the step of each is made.
        d_state: States of a channel.
    """

    def __init__(self, inner: int, dt_rank: int, d_state: int) -> None:
        super().__init__()
        self.add_scan(inner, dt_rank, d_state)
        self.init_step()


class MambaMixer(Selective):
    """Mamba (arXiv 2312.00752): projection, causal convolution, S6, gate, projection.

    Args:
        dim: Channels of a token.
        d_state: States of a channel.
        d_conv: Taps of the convolution.
        expand: Inner width over ``dim``.
    """

    def __init__(self, dim: int, d_state: int, d_conv: int, expand: int) -> None:
        super().__init__()
        inner = expand * dim
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner, padding=d_conv - 1)
        self.add_scan(inner, math.ceil(dim / 16), d_state)
        self.out_proj = nn.Linear(inner, dim, bias=False)
        self.init_step()

    def forward(self, tokens: Tensor, reverse: bool = False) -> Tensor:
        """Mix ``(B, L, D)`` from first to last, or from last to first."""
        x, z = self.in_proj(tokens).chunk(2, dim=-1)
        return self._scan(convolve(self.conv1d, x, reverse), z, reverse, None)[0]

    def step(self, tokens: Tensor, reverse: bool, memory: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """Mix a segment ``(B, l, D)`` as :meth:`forward` does the whole sequence.

        The memory is what the convolution still sees of the segment read before, ``(B, inner, d_conv - 1)``, and the
        state of the scan ``(B, inner, d_state)``; gradients go through both.
        """
        x, z = self.in_proj(tokens).chunk(2, dim=-1)
        seen, state = memory or (None, None)
        convolved, seen = convolve_piece(self.conv1d, x, reverse, seen)
        mixed, state = self._scan(convolved, z, reverse, state)
        return mixed, [seen, state]

    def _scan(self, convolved: Tensor, z: Tensor, reverse: bool, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """From the convolution and the gate, both ``(B, L, D)``, to the mixed tokens and the last state."""
        y, last = self.scan(F.silu(convolved), z, reverse, state)
        return self.out_proj(y), last
