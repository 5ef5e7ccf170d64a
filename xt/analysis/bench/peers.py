"""What an operation and its peers say of themselves."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from xt.analysis.bench.settings import FORWARD, MODES

Inputs = tuple[Tensor, ...]
Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Peer:
    """One implementation of an operation, or of what it stands for.

    Attributes:
        run: Inputs → output.
        ours: One of the package's backends; the first stands at 1 in ratios.
        oracle: What must give the same on the small inputs, in fp64; None for a peer that computes something else.
        checked: What is compared with the oracle, ``run`` by default.
        backward: Whether it has gradients.
        single: Whether it takes fp32 only.
    """

    run: Function
    ours: bool = False
    oracle: Function | None = None
    checked: Function | None = None
    backward: bool = True
    single: bool = False

    @property
    def modes(self) -> tuple[str, ...]:
        """Modes in which it can run."""
        return MODES if self.backward else (FORWARD,)


@dataclass(frozen=True)
class Op:
    """An operation with its peers.

    Attributes:
        shape: What the inputs are, in words.
        limit: What bounds it at best: ``"memory"`` or ``"gemm"``.
        draw: Tokens, dtype and device → inputs as a model has them.
        small: The same for inputs that are small enough to be checked.
        peers: Device → name → peer.
        work: Peer, tokens, bytes of a number, backward → bytes or FLOP that must be moved or done.
        learned: How many inputs get gradients; those before the others. All by default.
        errors: Peer, tokens, device → relative error of an estimate to what it estimates; None where there is none.
    """

    shape: str
    limit: str
    draw: Callable[[int, torch.dtype, str], Inputs]
    small: Callable[[torch.dtype, str], Inputs]
    peers: Callable[[str], dict[str, Peer]]
    work: Callable[[str, int, int, bool], float]
    learned: int | None = None
    errors: Callable[[str, int, str], float | None] = lambda peer, tokens, device: None
