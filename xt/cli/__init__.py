"""xt.cli."""
