"""Multi-scale attention (MSA of Atlas, arXiv 2503.12355) over the map of all tokens.

Settled here, where the abstract leaves it open: a scale is the mean over ``pool × pool`` tokens of the one below, made
once, before the first block; scales share all weights, so that any size of map takes the same model. In a block coarse
tokens first attend to those they were pooled from, from fine to coarse, so that the coarsest has heard of all; then
every window attends to itself and to the windows of coarser scales that cover it, in one softmax. Blocks are those of
the other attention encoders. Extra tokens belong to the coarsest window. What does not exist is left out of each scale.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from xt.errors import ModelError
from xt.geometry.grid import TokenLayout
from xt.geometry.scales import scales
from xt.models.context import base
from xt.models.context.base import ContextEncoder, pieces_pay
from xt.models.context.blocks import BlockParts, block_values, recomputed


@dataclass(frozen=True, eq=False)
class Level:
    """Where the tokens of one scale look, as indices on the device; −1 where there is none.

    Attributes:
        parents: ``(tokens,)`` at the scale above.
        children: ``(tokens, pool²)`` at the scale below; extra tokens have none.
        windows: ``(windows, window²)``.
        above: ``(windows, scales above)``.
        children_full: No −1 among the children.
        windows_full: No −1 in the windows.
    """

    parents: Tensor
    children: Tensor
    windows: Tensor
    above: Tensor
    children_full: bool
    windows_full: bool


def levels_of(layout: TokenLayout, window: int, pool: int, device: torch.device) -> list[Level]:
    """Return the levels of a layout, finest first; extra tokens stand last in the coarsest, which is one window."""
    found = []
    for scale in scales(layout, window, pool):
        parents, children, windows, above = (
            torch.tensor(each, device=device) for each in (scale.parents, scale.children, scale.windows, scale.above)
        )
        full = bool((scale.children >= 0).all()), bool((scale.windows >= 0).all())
        found.append(Level(parents, children, windows, above, *full))
    top = found[-1]
    everything = torch.arange(len(top.parents) + layout.num_extra, device=device)
    found[-1] = replace(top, windows=everything[None], above=top.above.new_empty(1, 0), windows_full=True)
    return found


class MSABlock(BlockParts):
    """Coarse tokens attend to those below, windows to themselves and those above; then an MLP. Pre-norm, residuals.

    Arguments of :class:`~xt.models.context.blocks.BlockParts`.
    """

    def forward(self, tokens: list[Tensor], levels: list[Level], ends: bool) -> list[Tensor]:
        """Mix the tokens ``(B, tokens, D)`` of each level; if the block ``ends`` the encoder, of those asked for."""
        tokens = list(tokens)
        for index in range(1, len(levels)):
            tokens[index] = self._listen(tokens[index], tokens[index - 1], levels[index])
        heads = [self.attn.qkv(self.input_layernorm(x)) for x in tokens]
        # One more row, for index −1.
        keys = [F.pad(each[..., each.shape[-1] // 3 :], (0, 0, 0, 1)) for each in heads]
        for index in range(len(levels)):
            if not ends or index in (0, len(levels) - 1):
                mixed = tokens[index] + self.attn.proj(self._look(heads[index], keys, levels, index))
                tokens[index] = mixed + self.mlp(self.post_attention_layernorm(mixed))
        return tokens

    def _listen(self, coarse: Tensor, fine: Tensor, level: Level) -> Tensor:
        """Let coarse tokens attend to their children; extra ones, at the end, have none."""
        dim, children = coarse.shape[-1], level.children
        placed, extra = coarse[:, : len(children)], coarse[:, len(children) :]
        q = F.linear(self.input_layernorm(placed), self.attn.qkv.weight[:dim], self.attn.qkv.bias[:dim])
        kv = F.linear(self.input_layernorm(fine), self.attn.qkv.weight[dim:], self.attn.qkv.bias[dim:])
        exists = None if level.children_full else children >= 0
        mixed = self._attend(q[:, :, None], F.pad(kv, (0, 0, 0, 1))[:, children], exists)
        return torch.cat([placed + self.attn.proj(mixed[:, :, 0]), extra], dim=1)

    def _look(self, qkv: Tensor, keys: list[Tensor], levels: list[Level], index: int) -> Tensor:
        """Let each window of a level attend to itself and to those that cover it, a group of windows at a time."""
        level = levels[index]
        q = F.pad(qkv[..., : qkv.shape[-1] // 3], (0, 0, 0, 1))
        # All at once with gradients: that of each group would be a whole level of zeros but for the group.
        in_groups = pieces_pay(qkv) and not torch.is_grad_enabled()
        group = max(1, base.PIECE_TOKENS // level.windows.shape[1] if in_groups else len(level.windows))
        full = all(each.windows_full for each in levels[index:])
        found = []
        for windows, above in zip(torch.split(level.windows, group), torch.split(level.above, group), strict=True):
            seen = [windows, *(upper.windows[above[:, n]] for n, upper in enumerate(levels[index + 1 :]))]
            kv = torch.cat([keys[index + n][:, each] for n, each in enumerate(seen)], dim=2)
            found.append(self._attend(q[:, windows], kv, None if full else torch.cat(seen, 1) >= 0).flatten(1, 2))
        there = level.windows.flatten()
        back = torch.empty(qkv.shape[1], dtype=torch.int64, device=there.device)
        back[there[there >= 0]] = torch.arange(len(there), device=there.device)[there >= 0]
        return torch.cat(found, dim=1)[:, back]

    def _attend(self, q: Tensor, kv: Tensor, exists: Tensor | None) -> Tensor:
        """``q (B, W, l, D)``, ``kv (B, W, s, 2 D)`` and ``exists (W, s)``, None for all → ``(B, W, l, D)``."""
        size, batch = self.attn.head_dim, q.shape[0]
        k, v = (rearrange(each, "b w s (h d) -> (b w) h s d", d=size) for each in kv.chunk(2, dim=-1))
        mask = None if exists is None else exists[:, None, None].repeat(batch, 1, 1, 1)
        mixed = F.scaled_dot_product_attention(rearrange(q, "b w l (h d) -> (b w) h l d", d=size), k, v, mask)
        return rearrange(mixed, "(b w) h l d -> b w l (h d)", b=batch)


class MSA(ContextEncoder):
    """Attention in windows at several scales of the map: near tokens finely, far ones as pooled.

    Cost is tokens × tokens of a window × scales, whose number grows with the logarithm of the map.

    Args:
        dim: Channels of a token; a multiple of ``head_dim``.
        depth: Blocks.
        head_dim: Channels of a head.
        mlp_ratio: Inner width of the MLP over ``dim``.
        window: Tokens along one side of a window; its square is the paper's K.
        pool: Tokens along one side that become one of the next scale; its square is the paper's S.

    Raises:
        ModelError: If heads do not divide the channels, or a window or a pooling is too small.
    """

    family = "attention"
    cost = "log-linear"

    def __init__(
        self, dim: int, depth: int = 2, head_dim: int = 128, mlp_ratio: float = 4.0, window: int = 16, pool: int = 4
    ) -> None:
        super().__init__()
        if window < 1 or pool < 2:
            raise ModelError(f"MSA: window {window} must be at least 1 and pool {pool} at least 2")
        self.dim = dim
        self.window, self.pool = window, pool
        # Queries, keys and values, keys and values of the windows above, and the scales above.
        self.working_values = block_values(mlp_ratio) + 10.0
        self.layers = nn.ModuleList(MSABlock(dim, head_dim, mlp_ratio) for _ in range(depth))

    @property
    def last_sees(self) -> bool:
        """The coarsest window holds something of all."""
        return len(self.layers) > 0

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        """Mix tokens ``(B, L, D)``; blocks are recomputed in backward."""
        if not self.layers:
            return tokens
        levels = levels_of(layout, self.window, self.pool, tokens.device)
        placed, extra = torch.split(tokens, [layout.num_tokens - layout.num_extra, layout.num_extra], dim=1)
        maps = [placed]
        for level, upper in pairwise(levels):
            maps.append(_pool(maps[-1], level.parents, upper))
        maps[-1] = torch.cat([maps[-1], extra], dim=1)
        for index, layer in enumerate(self.layers):
            maps = recomputed(self.training, layer, maps, levels, index == len(self.layers) - 1)
        if len(levels) == 1:
            return maps[0]
        return torch.cat([maps[0], maps[-1][:, maps[-1].shape[1] - layout.num_extra :]], dim=1)


def _pool(tokens: Tensor, parents: Tensor, upper: Level) -> Tensor:
    """Mean over the children of each token of the scale above."""
    total = tokens.new_zeros(tokens.shape[0], len(upper.children), tokens.shape[2]).index_add(1, parents, tokens)
    return total / (upper.children >= 0).sum(1)[:, None].to(tokens.dtype)
