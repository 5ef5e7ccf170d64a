"""xt.data."""
