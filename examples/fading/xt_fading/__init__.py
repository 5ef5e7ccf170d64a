"""A context encoder for xT, as a package of its own."""
