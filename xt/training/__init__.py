"""xt.training."""
