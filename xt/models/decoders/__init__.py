"""xt.models.decoders."""
