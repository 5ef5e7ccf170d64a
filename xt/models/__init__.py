"""xt.models."""
