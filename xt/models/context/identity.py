"""The control: no context."""

from collections.abc import Sequence

from xt.models.context.base import Pass, SequentialContextEncoder


class Identity(SequentialContextEncoder):
    """Returns the tokens as they are, so that no region sees another.

    Args:
        dim: Channels of a token.
    """

    family = "none"
    working_values = 0.0

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    @property
    def last_sees(self) -> bool:
        """No token sees another."""
        return False

    def passes(self) -> Sequence[Pass]:
        """No pass: tokens stay as they are."""
        return ()
