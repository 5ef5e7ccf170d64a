"""HyperAttention in LLaMA-style blocks (xT, arXiv 2403.01915; HyperAttention, arXiv 2310.05869).

Different from the release: attention sees both ways unless ``causal`` is set; projections and samples come from a
fixed seed, so the same input gives the same output; beyond ``min_seq_len`` tokens samples are more, unless ``taper`` is
off.
"""

import functools
import logging
from functools import partial

import torch
from torch import Tensor, nn

from xt.geometry.grid import TokenLayout
from xt.models.context.base import ContextEncoder
from xt.models.context.blocks import AttentionBlock, block_values
from xt_kernels.hyper_attention import hyper_attention

_log = logging.getLogger(__name__)


class Hyper(ContextEncoder):
    """Near-linear attention over all tokens; exact up to ``min_seq_len`` tokens.

    Just beyond, samples are nearly all keys, so that the result does not jump; their number then falls as the tokens
    grow, at an equal cost in all, until it is ``sample_size`` at ``min_seq_len² / sample_size`` tokens (65,536).

    Args:
        dim: Channels of a token; a multiple of ``head_dim``.
        depth: Layers.
        head_dim: Channels of a head.
        mlp_ratio: Inner width of the MLP over ``dim``.
        causal: A token attends to none after it, as in the released classifiers. Beyond ``min_seq_len`` tokens this is
            not strictly causal: see :func:`xt_kernels.hyper_attention.hyper_attention`.
        block_size: Keys attended exactly.
        sample_size: Keys sampled for the rest, at least; more is closer to exact attention.
        num_projections: Bits of the hash.
        min_seq_len: Up to so many tokens attention is exact.
        seed: Of projections and samples; layer i uses ``seed + 1000 i``.
        taper: Sample ``min_seq_len² / tokens`` keys where that is more than ``sample_size``. Off, as in the release,
            the error jumps at ``min_seq_len``.
    """

    family = "attention"

    def __init__(
        self,
        dim: int,
        depth: int = 2,
        head_dim: int = 128,
        mlp_ratio: float = 4.0,
        causal: bool = False,
        block_size: int = 256,
        sample_size: int = 256,
        num_projections: int = 7,
        min_seq_len: int = 4096,
        seed: int = 0,
        taper: bool = True,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.min_seq_len = min_seq_len
        self.working_values = block_values(mlp_ratio)
        self.layers = nn.ModuleList(AttentionBlock(dim, head_dim, mlp_ratio) for _ in range(depth))
        self._attend = [
            partial(
                hyper_attention,
                causal=causal,
                block_size=block_size,
                sample_size=sample_size,
                num_projections=num_projections,
                min_seq_len=min_seq_len,
                seed=seed + 1000 * layer,
                taper=taper,
            )
            for layer in range(depth)
        ]

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        """Mix tokens ``(B, L, D)``."""
        if not torch.compiler.is_compiling():
            _tell(tokens.shape[1] <= self.min_seq_len, self.min_seq_len)
        for layer, attend in zip(self.layers, self._attend, strict=True):
            tokens = layer(tokens, None, attend)
        return tokens


@functools.cache
def _tell(exact: bool, min_seq_len: int) -> None:
    # Cached, so that each choice is told once in a process.
    if exact:
        _log.info("Hyper: attention is exact; it is up to min_seq_len, %d tokens", min_seq_len)
    else:
        _log.info("Hyper: attention is an estimate from blocks and samples beyond min_seq_len, %d tokens", min_seq_len)
