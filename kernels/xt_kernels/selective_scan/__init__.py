"""The selective scan of Mamba (S6, arXiv 2312.00752)."""

from xt_kernels.selective_scan.interface import selective_scan, selective_scan_channels_last

__all__ = ["selective_scan", "selective_scan_channels_last"]
