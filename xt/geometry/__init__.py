"""xt.geometry."""
