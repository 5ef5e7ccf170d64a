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
    heads, length = q.shape[1:3]
    rows = [each.flatten(1, 2) for each in (q, k, v)]
    found = [_attend(rows, _places(heads, length, *each).to(q.device)) for each in patterns_for(length, patterns)]
    fill = heads * length
    logs = [log.new_full((len(log), fill + 1), -torch.inf).index_copy(1, places, log) for places, _, log in found]
    weights = torch.stack(logs)[..., :fill].softmax(0).to(v.dtype)
    mixed = v.new_zeros(len(v), fill + 1, v.shape[-1])
    for (places, out, _), weight in zip(found, weights, strict=True):
        mixed.index_add_(1, places, out * weight.index_select(1, places.clamp(max=fill - 1))[..., None])
    return mixed[:, :fill].reshape(q.shape)


def _places(heads: int, length: int, segment: int, dilation: int) -> Tensor:
    """The tokens that each head keeps of each segment ``(H, n, m)``, counted head after head; H · L for none."""
    # Both fill up at the front: the sequence to whole segments, a segment to whole steps of the dilation.
    starts = torch.arange(length - math.ceil(length / segment) * segment, length, segment)
    first = dilation - 1 - torch.arange(heads) % dilation - -segment % dilation
    inside = first[:, None] + torch.arange(0, segment + -segment % dilation, dilation)
    tokens = starts[:, None] + inside[:, None]
    own = tokens + length * torch.arange(heads)[:, None, None]
    return own.where((inside[:, None] >= 0) & (tokens >= 0), heads * length)


def _attend(rows: Sequence[Tensor], places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One pattern: the tokens kept, what each hears ``(B, H · n · m, d)``, and the logarithm of its denominator."""
    batch, fill, _ = rows[0].shape
    kept = places.flatten()
    group = max(1, SCORES // places.shape[2] ** 2)
    parts = [each.index_select(1, kept.clamp(max=fill - 1)).view(-1, places.shape[2], each.shape[-1]) for each in rows]
    parts.append((places < fill).flatten(0, 1).repeat(batch, 1))
    pieces = zip(*(torch.split(each, group) for each in parts), strict=True)
    mixed, logs = zip(*(recomputed(torch.is_grad_enabled(), _softmax, *each) for each in pieces), strict=True)
    return kept, torch.cat(mixed).view(batch, len(kept), -1), torch.cat(logs).view(batch, len(kept))


def _softmax(q: Tensor, k: Tensor, v: Tensor, exists: Tensor) -> tuple[Tensor, Tensor]:
    scores = (q @ k.mT).to(torch.promote_types(q.dtype, torch.float32)) / q.shape[-1] ** 0.5
    # Not −∞, which has no softmax where a segment holds nothing.
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
        # Each pattern's result, its logarithms and the sum, beside queries, keys and values.
        self.working_values = max(block_values(mlp_ratio), len(lengths) + 9.0)
        self._kept = max(math.ceil(each / step) for each, step in zip(lengths, steps, strict=True)) * (dim // head_dim)
        self._attend = functools.partial(dilated_attention, patterns=list(zip(lengths, steps, strict=True)))
        self.layers = nn.ModuleList(AttentionBlock(dim, head_dim, mlp_ratio) for _ in range(depth))

    @property
    def last_sees(self) -> bool:
        """The last token is in each pattern."""
        return len(self.layers) > 0

    def working_bytes(self, num_tokens: int) -> int:
        """Scores come on top, as products, masked, as exponentials and their shares."""
        return super().working_bytes(num_tokens) + 4 * 4 * min(SCORES, self._kept * num_tokens)

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        """Mix tokens ``(B, L, D)``."""
        for layer in self.layers:
            tokens = layer(tokens, None, self._attend)
        return tokens
