"""Kernels of xT: they know torch and triton, never xt."""
