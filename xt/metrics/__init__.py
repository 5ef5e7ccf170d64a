"""xt.metrics."""
