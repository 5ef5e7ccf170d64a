"""xt.tasks."""
