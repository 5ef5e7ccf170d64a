"""LongNet (arXiv 2307.02486; the slide encoder of Prov-GigaPath) over all tokens: dilated attention.

Different from the paper: attention looks both ways; segments and offsets are counted from the last token, so that a
class token is in each pattern and never alone; beyond the longest segment one more pattern spans the whole sequence,
dilated until it keeps no more tokens than the last pair, so that every length is crossed at linear cost; and what does
not fill a segment is masked, where the release attends to zeros. The mixing weights have their gradient.
"""

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from xt.errors import ModelError
from xt.geometry.grid import TokenLayout
from xt.models.context.base import ContextEncoder
from xt.models.context.blocks import AttentionBlock, block_values, recomputed

Patterns = Sequence[tuple[int, int]]
"""Segment length and dilation of each pattern."""
SCORES = 2**24
"""Scores that are made at a time."""


def patterns_for(length: int, patterns: Patterns) -> list[tuple[int, int]]:
    """Cut patterns to a sequence, and add one over all of it where the longest segment falls short."""
    found = [(min(segment, length), dilation) for segment, dilation in patterns]
    segment, dilation = patterns[-1]
    if segment < length:
        found.append((length, math.ceil(length * dilation / segment)))
    return found


def dilated_attention(q: Tensor, k: Tensor, v: Tensor, patterns: Patterns) -> Tensor:
    """Attend in segments of dilated tokens, and mix patterns by the denominators of their softmax.

    Args:
        q: ``(B, H, L, d)``.
        k: As ``q``.
        v: As ``q``.
        patterns: Head h keeps the tokens whose distance from the end of their segment is h modulo the dilation. The
            first dilation is 1.

    Returns:
        ``(B, H, L, d)``.
    """
    found = [_attend(q, k, v, *each) for each in patterns_for(q.shape[2], patterns)]
    logs = torch.stack([log for _, log in found])
    weights = logs.softmax(0).to(v.dtype)
    mixed = torch.zeros_like(v)
    for (out, _), weight in zip(found, weights.unbind(0), strict=True):
        mixed = torch.addcmul(mixed, out, weight[..., None])
    return mixed


def _attend(q: Tensor, k: Tensor, v: Tensor, segment: int, dilation: int) -> tuple[Tensor, Tensor]:
    """One pattern: what each token hears ``(B, H, L, d)``, and the logarithm of its denominator ``(B, H, L)``."""
    batch, heads, length, _ = q.shape
    kept = [dilation - 1 - head % dilation for head in range(heads)]

    def dilate(x: Tensor) -> Tensor:
        # Both fill up at the front: the sequence to whole segments, a segment to whole steps of the dilation.
        x = rearrange(F.pad(x, (0, 0, -length % segment, 0)), "b h (n w) d -> b h n w d", w=segment)
        x = F.pad(x, (0, 0, -segment % dilation, 0))
        x = rearrange(x, "b h n (m r) d -> b h n m r d", r=dilation)
        return torch.stack([x[:, head, :, :, place] for head, place in enumerate(kept)], 1)

    def restore(x: Tensor, fill: float) -> Tensor:
        apart = torch.full((*x.shape[:4], dilation, x.shape[-1]), fill, dtype=x.dtype, device=x.device)
        apart = torch.stack([apart[:, h].select_scatter(x[:, h], 3, place) for h, place in enumerate(kept)], 1)
        whole = rearrange(apart, "b h n m r d -> b h n (m r) d")[:, :, :, -segment:]
        return rearrange(whole, "b h n w d -> b h (n w) d")[:, :, -length:]

    exists = dilate(q.new_ones(batch, heads, length, 1))[..., 0].bool()
    parts = [each.flatten(0, 2) for each in (*map(dilate, (q, k, v)), exists)]
    group = max(1, SCORES // exists.shape[3] ** 2)
    pieces = zip(*(torch.split(each, group) for each in parts), strict=True)
    mixed, logs = zip(*(recomputed(torch.is_grad_enabled(), _softmax, *each) for each in pieces), strict=True)
    whole = (torch.cat(each).view(*exists.shape, -1) for each in (mixed, logs))
    out, log = (restore(each, fill) for each, fill in zip(whole, (0.0, -torch.inf), strict=True))
    return out, log[..., 0]


def _softmax(q: Tensor, k: Tensor, v: Tensor, exists: Tensor) -> tuple[Tensor, Tensor]:
    scores = (q @ k.mT).to(torch.promote_types(q.dtype, torch.float32)) / q.shape[-1] ** 0.5
    # Not −∞, which has no softmax where a segment holds nothing; such rows are cut off later.
    scores = scores.masked_fill(~exists[..., None, :], torch.finfo(scores.dtype).min)
    log = scores.logsumexp(-1)
    return (scores - log[..., None]).exp().to(v.dtype) @ v, log


class LongNet(ContextEncoder):
    """Blocks of :class:`xt.models.context.hyper.Hyper` with dilated attention: near tokens densely, far ones sparsely.

    A token is in a sparse pattern by the heads whose offset it has; with fewer heads than the dilation some tokens hear
    the far ones through their neighbours, in the next block.

    Args:
        dim: Channels of a token; a multiple of ``head_dim``.
        depth: Blocks.
        head_dim: Channels of a head.
        mlp_ratio: Inner width of the MLP over ``dim``.
        segment_lengths: Tokens of a segment of each pattern, ascending.
        dilations: One token in so many is kept, of each pattern; the first is 1.

    Raises:
        ModelError: If heads do not divide the channels, or patterns do not fit.
    """

    family = "attention"

    def __init__(
        self,
        dim: int,
        depth: int = 2,
        head_dim: int = 64,
        mlp_ratio: float = 4.0,
        segment_lengths: Sequence[int] = (2048, 4096, 8192, 16384, 32768),
        dilations: Sequence[int] = (1, 2, 4, 6, 12),
    ) -> None:
        super().__init__()
        lengths, steps = list(segment_lengths), list(dilations)
        if len(lengths) != len(steps) or not lengths or min(lengths + steps) < 1 or steps[0] != 1:
            raise ModelError(
                f"LongNet: segment_lengths {lengths} and dilations {steps} must be as many, at least 1, the first "
                "dilation 1"
            )
        if lengths != sorted(lengths):
            raise ModelError(f"LongNet: segment_lengths {lengths} must ascend")
        self.dim = dim
        # Each pattern's result and its fill, beside queries, keys and values dilated and not.
        self.working_values = max(block_values(mlp_ratio), 2.0 * (len(lengths) + 1) + 8.0)
        self._attend = functools.partial(dilated_attention, patterns=list(zip(lengths, steps, strict=True)))
        self.layers = nn.ModuleList(AttentionBlock(dim, head_dim, mlp_ratio) for _ in range(depth))

    @property
    def last_sees(self) -> bool:
        """The last token is in each pattern."""
        return len(self.layers) > 0

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        """Mix tokens ``(B, L, D)``."""
        for layer in self.layers:
            tokens = layer(tokens, None, self._attend)
        return tokens
