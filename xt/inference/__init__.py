"""xt.inference."""
