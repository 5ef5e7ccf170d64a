"""The control: no context."""

from torch import Tensor

from xt.geometry.grid import TokenLayout
from xt.models.context.base import ContextEncoder


class Identity(ContextEncoder):
    """Returns the tokens as they are, so that no region sees another.

    Args:
        dim: Channels of a token.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    @property
    def last_sees(self) -> bool:
        """No token sees another."""
        return False

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        """Return tokens ``(B, L, D)``."""
        return tokens
