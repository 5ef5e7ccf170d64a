"""RSMamba (arXiv 2403.19654) over all tokens: one Mamba over three orders, forward, reverse and shuffled.

Different from the release: in evaluation the shuffle is a fixed one for each layer and length, so that the same image
has the same answer. In training it is drawn at every call from torch's generator, as in the paper. Where the paper is
silent: the gate reads the means of the mixed paths over all tokens, each path is put back in order before, and the
norm stands before the mixer, the residual around it all.
"""

import torch
from torch import Tensor, nn

from xt.geometry.grid import TokenLayout
from xt.models.context import base
from xt.models.context.base import ContextEncoder, Memory, Pass, pieces_pay, sweep
from xt.models.context.blocks import recomputed
from xt.models.selective import MambaMixer


class RSMambaLayer(nn.Module):
    """``x + Σ g_k T_k``: paths ``T_k`` of one mixer over ``LN(x)``, gates a softmax over the three.

    Args:
        dim: Channels of a token.
        d_state: States of a channel.
        d_conv: Taps of the convolution.
        expand: Inner width over ``dim``.
    """

    def __init__(self, dim: int, d_state: int, d_conv: int, expand: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-5)
        self.mixer = MambaMixer(dim, d_state, d_conv, expand)
        self.gate = nn.Linear(3 * dim, 3, bias=False)

    def forward(self, x: Tensor, shuffle: Tensor) -> Tensor:
        """Mix ``(B, L, D)``; ``shuffle (L,)`` is a permutation. Paths are recomputed in backward."""
        own = self.norm(x)
        back = torch.empty_like(shuffle)
        back[shuffle] = torch.arange(len(shuffle), device=shuffle.device)
        paths = [self._path(own), self._path(own, True), self._path(own[:, shuffle])[:, back]]
        means = torch.cat([path.mean(1) for path in paths], dim=-1)
        gates = self.gate(means).softmax(-1)
        for path, gate in zip(paths, gates.unbind(-1), strict=True):
            x = torch.addcmul(x, gate[:, None, None].to(x.dtype), path.to(x.dtype))
        return x

    def _path(self, x: Tensor, reverse: bool = False) -> Tensor:
        """Mix ``(B, L, D)``, in pieces where that pays."""
        if not pieces_pay(x):
            whole: Tensor = recomputed(self.training, self.mixer, x, reverse)
            return whole

        def step(piece: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
            mixed: tuple[Tensor, Memory] = recomputed(self.training, self.mixer.step, piece, reverse, memory)
            return mixed

        return sweep(x, [Pass(step, reverse)], [None], base.PIECE_TOKENS)


class RSMamba(ContextEncoder):
    """Layers that read the sequence forward, backward and shuffled by the same weights, and weigh the three.

    Args:
        dim: Channels of a token.
        depth: Layers.
        d_state: States of a channel.
        d_conv: Taps of the convolution.
        expand: Inner width over ``dim``.
        seed: Of the shuffles in evaluation; layer i uses ``seed + i``.
    """

    family = "state space"

    def __init__(
        self, dim: int, depth: int = 2, d_state: int = 16, d_conv: int = 4, expand: int = 2, seed: int = 0
    ) -> None:
        super().__init__()
        self.dim = dim
        self.seed = seed
        # One path at a time as in Mamba, beside the norm, three paths and the shuffled tokens.
        self.working_values = 7.0 * expand + 7.0
        self.layers = nn.ModuleList(RSMambaLayer(dim, d_state, d_conv, expand) for _ in range(depth))

    @property
    def last_sees(self) -> bool:
        """Every layer reads forward too."""
        return len(self.layers) > 0

    def shuffle(self, layer: int, length: int) -> Tensor:
        """Permutation ``(length,)`` of a layer in evaluation."""
        return torch.randperm(length, generator=torch.Generator().manual_seed(self.seed + layer), device="cpu")

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        """Mix tokens ``(B, L, D)``."""
        length = tokens.shape[1]
        for index, layer in enumerate(self.layers):
            shuffle = torch.randperm(length, device="cpu") if self.training else self.shuffle(index, length)
            tokens = layer(tokens, shuffle.to(tokens.device))
        return tokens
