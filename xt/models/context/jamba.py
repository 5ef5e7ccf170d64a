"""Jamba (arXiv 2403.19887) over all tokens: one layer of attention to seven of Mamba, and mixtures of experts.

Different from the paper: its Mamba layers run backward and forward in turn, the first backward, as xT's do, and its
attention looks both ways; where there are more than ``min_seq_len`` tokens attention is HyperAttention, since exact
attention would make the cost quadratic (one layer of eight is enough for that). All heads have keys of their own.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xt.geometry.grid import TokenLayout
from xt.models.context.base import ContextEncoder
from xt.models.context.blocks import Attention, GatedMLP, block_values, recomputed
from xt.models.context.moe import MixtureOfExperts
from xt.models.selective import MambaMixer
from xt_kernels.hyper_attention import hyper_attention

LAYERS, ATTENTION, EXPERTS = 8, 4, 1
"""Layers of a Jamba block, the one with attention among them, and the first of each pair that is a mixture."""


class JambaMixer(MambaMixer):
    """Mamba with RMSNorm on what step, input and output weights are made from.

    Args:
        dim: Channels of a token.
        d_state: States of a channel.
        d_conv: Taps of the convolution.
        expand: Inner width over ``dim``.
    """

    def __init__(self, dim: int, d_state: int, d_conv: int, expand: int) -> None:
        super().__init__(dim, d_state, d_conv, expand)
        self.dt_norm, self.b_norm, self.c_norm = (
            nn.RMSNorm(size, eps=1e-6) for size in (self.dt_rank, d_state, d_state)
        )

    def weights(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read and norm step, input and output weights."""
        step, b, c = super().weights(x)
        return self.dt_norm(step), self.b_norm(b), self.c_norm(c)


class JambaLayer(nn.Module):
    """Attention or Mamba, then an MLP or a mixture of experts; each of an RMSNorm and with a residual.

    Args:
        dim: Channels of a token.
        mixer: Attention, or Mamba.
        mlp: An MLP, or a mixture.
        run: Calls the mixer on the normed tokens.
    """

    def __init__(self, dim: int, mixer: nn.Module, mlp: nn.Module, run: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.mixer_norm = nn.RMSNorm(dim, eps=1e-6)
        self.mixer = mixer
        self.mlp_norm = nn.RMSNorm(dim, eps=1e-6)
        self.mlp = mlp
        self._run = run

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mix ``(B, L, D)``; also returns the unevenness of a mixture of experts."""
        x = x + self._run(self.mixer, self.mixer_norm(x))
        said = self.mlp(self.mlp_norm(x))
        said, uneven = said if isinstance(said, tuple) else (said, None)
        return x + said, uneven


class Jamba(ContextEncoder):
    """Of each eight layers the fifth is attention, the others Mamba; every second MLP is a mixture of experts.

    The loss ``load_balance`` keeps experts in use: ``aux_weight`` times the mean over layers of
    :class:`~xt.models.context.moe.MixtureOfExperts`' unevenness.

    Args:
        dim: Channels of a token; a multiple of ``head_dim``.
        depth: Layers.
        head_dim: Channels of a head.
        mlp_ratio: Inner width of an MLP and of an expert over ``dim``.
        num_experts: Experts of a mixture; 0 for plain MLPs everywhere.
        top_k: Experts of a token.
        aux_weight: Weight of the auxiliary loss.
        d_state: States of a channel.
        d_conv: Taps of the convolution.
        expand: Inner width of Mamba over ``dim``.
        min_seq_len: Up to so many tokens attention is exact.
        seed: Of HyperAttention's projections and samples; layer i uses ``seed + 1000 i``.

    Raises:
        ModelError: If heads do not divide the channels, or experts are fewer than a token takes.
    """

    family = "hybrid"

    def __init__(
        self,
        dim: int,
        depth: int = 8,
        head_dim: int = 128,
        mlp_ratio: float = 3.5,
        num_experts: int = 16,
        top_k: int = 2,
        aux_weight: float = 0.001,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        min_seq_len: int = 4096,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.aux_weight = aux_weight
        self.working_values = max(7.0 * expand + 3.0, block_values(mlp_ratio)) + 4.0
        self.layers = nn.ModuleList()
        backward = True
        for index in range(depth):
            run: Callable[..., Tensor]
            mixer: nn.Module
            if index % LAYERS == ATTENTION:
                mixer = Attention(dim, head_dim)
                attend = partial(hyper_attention, min_seq_len=min_seq_len, seed=seed + 1000 * index, taper=True)
                run = partial(_attend, attend=attend)
            else:
                mixer = JambaMixer(dim, d_state, d_conv, expand)
                run, backward = partial(_scan, reverse=backward), not backward
            mixture = num_experts and index % 2 == EXPERTS
            mlp = MixtureOfExperts(dim, mlp_ratio, num_experts, top_k) if mixture else GatedMLP(dim, mlp_ratio, F.silu)
            self.layers.append(JambaLayer(dim, mixer, mlp, run))
        self._uneven: list[Tensor] = []

    @property
    def last_sees(self) -> bool:
        """From the second layer on, the first that runs forward."""
        return len(self.layers) > 1

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        """Mix tokens ``(B, L, D)``; layers are recomputed in backward."""
        self._uneven = []
        for layer in self.layers:
            tokens, uneven = recomputed(self.training, layer, tokens)
            if uneven is not None and torch.is_grad_enabled():
                self._uneven.append(uneven)
        return tokens

    def losses(self) -> dict[str, Tensor]:
        """Return ``load_balance`` of the last forward with gradients; none without a mixture of experts."""
        if not self._uneven:
            return {}
        return {"load_balance": self.aux_weight * torch.stack(self._uneven).mean()}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to the last forward, which can be neither copied nor pickled."""
        return {**self.__dict__, "_uneven": []}


def _attend(mixer: nn.Module, x: Tensor, attend: Callable[..., Tensor]) -> Tensor:
    out: Tensor = mixer(x, None, attend)
    return out


def _scan(mixer: nn.Module, x: Tensor, reverse: bool) -> Tensor:
    out: Tensor = mixer(x, reverse)
    return out
