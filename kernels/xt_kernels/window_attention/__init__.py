"""Attention in windows with the cosine of queries and keys, as in Swin Transformer V2."""

from xt_kernels.window_attention.interface import window_attention

__all__ = ["window_attention"]
