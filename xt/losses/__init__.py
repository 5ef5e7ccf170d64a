"""xt.losses."""
