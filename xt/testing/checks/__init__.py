"""xt.testing.checks: each takes the class under test, raises its fault, and returns what was found."""
