"""xt.analysis."""
