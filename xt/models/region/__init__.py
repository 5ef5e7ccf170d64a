"""xt.models.region."""
