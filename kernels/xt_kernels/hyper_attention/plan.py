"""What is attended to: the parts of a call, its blocks, its samples and its sorted order. All backends follow it."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Options:
    """What a call asks for, apart from its tensors.

    Attributes:
        causal: Mask later keys.
        block_size: Keys in a block, about.
        sample_size: Sampled keys, at least; all of them if there are fewer.
        num_projections: Bits of the hash.
        min_seq_len: Up to so many tokens attention is exact.
        scale: Factor of the logits.
        seed: Of projections and samples.
        taper: Sample ``min_seq_len² / keys`` keys where that is more than ``sample_size``.
    """

    causal: bool
    block_size: int
    sample_size: int
    num_projections: int
    min_seq_len: int
    scale: float
    seed: int
    taper: bool

    def packed(self) -> list[int]:
        """Return all but the scale, as an operator of torch takes it."""
        return [
            self.causal,
            self.block_size,
            self.sample_size,
            self.num_projections,
            self.min_seq_len,
            self.seed,
            self.taper,
        ]

    @classmethod
    def unpacked(cls, scale: float, packed: Sequence[int]) -> "Options":
        """Undo :meth:`packed`."""
        causal, block_size, sample_size, num_projections, min_seq_len, seed, taper = packed
        sizes = (block_size, sample_size, num_projections, min_seq_len)
        return cls(bool(causal), *sizes, scale, seed, bool(taper))


@dataclass(frozen=True)
class Part:
    """A run of queries that attends to a run of keys. All parts of a query share one softmax.

    Attributes:
        q_start: First query.
        length: Number of queries.
        k_start: First key.
        keys: Number of keys.
        seed: Of projections and samples; None for exact attention of a run of tokens to itself, causally.
        blocks: Blocks of sorted queries, and of sorted keys.
        samples: Number of sampled keys.
        place: Where its sorted queries, and after them its sorted keys, stand in the order of the call.
    """

    q_start: int
    length: int
    k_start: int
    keys: int
    seed: int | None = None
    blocks: int = 1
    samples: int = 0
    place: int = 0

    @property
    def q_size(self) -> int:
        """Queries of a block; the last blocks may have fewer, or none."""
        return -(-self.length // self.blocks)

    @property
    def k_size(self) -> int:
        """Keys of a block; the last blocks may have fewer, or none."""
        return -(-self.keys // self.blocks)

    def orders(self, order: Tensor) -> tuple[Tensor, Tensor]:
        """Cut its sorted queries and sorted keys, counted from its first ones, out of ``order (…, P)``."""
        middle = self.place + self.length
        return order[..., self.place : middle], order[..., middle : middle + self.keys]


def parts(length: int, keys: int, options: Options) -> list[Part]:
    """List the parts of a call, exact ones first.

    Without a causal mask there is one, an estimate. With it the tokens are halved until ``min_seq_len``, where
    attention is exact; each second half sees the first without a mask.
    """
    if not options.causal:
        return [_estimate(0, length, 0, keys, options, options.seed, 0)]
    exact: list[Part] = []
    across: list[Part] = []
    halves = [(0, length, options.seed)]
    place = 0
    while halves:
        start, count, seed = halves.pop()
        if count <= options.min_seq_len:
            exact.append(Part(start, count, start, count))
            continue
        half = count // 2
        across.append(_estimate(start + half, count - half, start, half, options, seed + 2, place))
        place += count
        halves += [(start, half, seed), (start + half, count - half, seed + 1)]
    return exact + across


def order_length(parts: list[Part]) -> int:
    """Count the entries of the order of a call: its sorted queries and keys, for each estimate."""
    return sum(part.length + part.keys for part in parts if part.seed is not None)


def _estimate(q_start: int, length: int, k_start: int, keys: int, options: Options, seed: int, place: int) -> Part:
    samples = options.sample_size
    if options.taper:
        samples = max(samples, -(-(options.min_seq_len**2) // keys))
    blocks = -(-max(length, keys) // options.block_size)
    return Part(q_start, length, k_start, keys, seed, blocks, min(samples, keys), place)


@functools.lru_cache(maxsize=64)
def projections(channels: int, options: Options, seed: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Draw the directions ``(num_projections, D)`` whose signs are the hash."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(channels, options.num_projections, generator=generator)
    return drawn.t().contiguous().to(device, dtype)


@functools.lru_cache(maxsize=64)
def sampled(part: Part, dtype: torch.dtype, device: torch.device, base: float = math.e) -> tuple[Tensor, Tensor]:
    """Draw one key out of each of ``samples`` equal runs of the keys.

    All are different, so that as many samples as keys make attention exact; and they do not depend on the hash, which
    rounding can change.

    Returns:
        Indices ``(m,)`` of keys, counted from the part's first, ascending, and the logarithms ``(m,)`` of the lengths
        of their runs, the weights.
    """
    edges = torch.arange(part.samples + 1) * part.keys // part.samples
    runs = edges.diff()
    assert part.seed is not None
    generator = torch.Generator().manual_seed(part.seed + 1)
    drawn = (torch.rand(part.samples, generator=generator, dtype=torch.float64) * runs).long()
    weights = runs.double().log() / math.log(base)
    return (edges[:-1] + drawn).to(device), weights.to(device, dtype)


def sample_places(k_order: Tensor, samples: Tensor) -> Tensor:
    """Find where the samples ``(m,)`` stand in the sorted keys ``(…, S)``: ``(…, m)``."""
    places = torch.empty_like(k_order)
    everywhere = torch.arange(places.shape[-1], dtype=places.dtype, device=places.device).expand_as(places)
    return places.scatter_(-1, k_order.long(), everywhere)[..., samples]


def working(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to calculate in."""
    return torch.promote_types(dtype, torch.float32)


def ranks(bits: Tensor) -> Tensor:
    """Turn sign bits ``(num_projections, L)``, read as a Gray code, into its ranks ``(L,)``.

    Neighbours in rank differ in one sign.
    """
    rank = torch.zeros_like(bits[0], dtype=torch.uint8 if len(bits) <= 8 else torch.int64)
    odd = torch.zeros_like(bits[0])
    for bit in bits:
        odd = odd ^ bit
        rank = rank * 2 + odd
    return rank
