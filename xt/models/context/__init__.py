"""xt.models.context."""
