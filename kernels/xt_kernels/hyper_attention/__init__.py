"""HyperAttention (arXiv 2310.05869): near-linear attention by sorted blocks and sampled keys."""

from xt_kernels.hyper_attention.interface import hyper_attention

__all__ = ["hyper_attention"]
