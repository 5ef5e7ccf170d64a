"""Transformer-XL over regions (xT, arXiv 2403.01915; Transformer-XL, arXiv 1901.02860), with HyperAttention.

Different from the release: the memory is really kept, read and returned. Positions are absolute and added by the
model, as in xT.
"""

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from xt.errors import ModelError
from xt.geometry import order
from xt.geometry.grid import TokenLayout
from xt.models.context.base import Memory, RecurrentContextEncoder
from xt.models.context.blocks import AttentionBlock, block_values
from xt.models.tokenization import permute
from xt_kernels.hyper_attention import hyper_attention


class TransformerXL(RecurrentContextEncoder):
    """Reads the image in chunks of ``chunk_regions`` regions, in raster order of regions.

    A token attends to its chunk and, at each layer, to the hidden states that the previous chunk had there,
    without gradient. So ``depth`` layers see ``depth · chunk_regions`` regions back, and nothing ahead of the
    chunk.

    Args:
        dim: Channels of a token; a multiple of ``head_dim``.
        depth: Layers.
        chunk_regions: Regions of a chunk.
        head_dim: Channels of a head.
        mlp_ratio: Inner width of the MLP over ``dim``.
        block_size: Keys attended exactly.
        sample_size: Keys sampled for the rest.
        num_projections: Bits of the hash.
        min_seq_len: Up to so many keys attention is exact. A chunk has ``2 · chunk_regions · tokens of a region``, the
            first half of them.
        seed: Of projections and samples.

    Raises:
        ModelError: If a chunk has no region, or heads do not divide the channels.
    """

    family = "attention"

    def __init__(
        self,
        dim: int,
        depth: int = 2,
        chunk_regions: int = 4,
        head_dim: int = 128,
        mlp_ratio: float = 4.0,
        block_size: int = 256,
        sample_size: int = 256,
        num_projections: int = 7,
        min_seq_len: int = 4096,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if chunk_regions < 1:
            raise ModelError(f"TransformerXL: chunk_regions is {chunk_regions}; it must be at least 1")
        self.dim = dim
        self.chunk_regions = self.segment_regions = chunk_regions
        self.working_values = block_values(mlp_ratio)
        self.layers = nn.ModuleList(AttentionBlock(dim, head_dim, mlp_ratio) for _ in range(depth))
        self._attend = partial(
            hyper_attention,
            block_size=block_size,
            sample_size=sample_size,
            num_projections=num_projections,
            min_seq_len=min_seq_len,
            seed=seed,
        )

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        """Mix tokens ``(B, L, D)`` in raster order of the map."""
        return self.step(tokens, layout, None)[0]

    def step(self, tokens: Tensor, layout: TokenLayout, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Mix a segment ``(B, L, D)`` in raster order of its map; extra tokens join its last chunk."""
        memory = memory or []
        if not tokens.shape[1]:
            return tokens, memory
        to_regions = order.region_major(layout)
        tokens = permute(tokens, to_regions)
        size = self.chunk_regions * layout.region_tokens
        placed = tokens.shape[1] - layout.num_extra
        starts = range(0, max(placed, 1), size)
        lengths = [stop - start for start, stop in pairwise([*starts, tokens.shape[1]])]
        outputs = []
        # Not a slice for each chunk, whose gradient would be as long as the image.
        for x in tokens.split_with_sizes(lengths, 1):
            hidden: Memory = []
            for index, layer in enumerate(self.layers):
                hidden.append(x.detach())
                x = layer(x, memory[index] if memory else None, self._attend)
            memory = hidden
            outputs.append(x)
        return permute(torch.cat(outputs, 1), order.inverse(to_regions)), memory
