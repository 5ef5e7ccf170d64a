"""What computing a chunk a second time takes: the state that it was computed under, and sums of gradients."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class Replay:
    """The random and autocast state of one chunk, so that a second run equals the first."""

    device: torch.device
    cpu: Tensor
    cuda: Tensor | None
    autocast: bool
    dtype: torch.dtype

    @classmethod
    def capture(cls, device: torch.device) -> "Replay":
        """Take the state of now."""
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        kind = device.type
        return cls(device, torch.get_rng_state(), cuda, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Set the state, recording gradients, and take it back afterwards.

        Casts of weights are made anew: those that an autocast around all keeps may be of the first run, which has no
        gradients (PyTorch 2.10).
        """
        devices = [self.device] if self.cuda is not None else []
        with (
            torch.random.fork_rng(devices, device_type="cuda"),
            torch.autocast(self.device.type, self.dtype, self.autocast, cache_enabled=False),
            torch.enable_grad(),
        ):
            torch.set_rng_state(self.cpu)
            if self.cuda is not None:
                torch.cuda.set_rng_state(self.cuda, self.device)
            yield


def trained(modules: Sequence[nn.Module]) -> list[Tensor]:
    """Parameters that get a gradient."""
    return [p for module in modules for p in module.parameters() if p.requires_grad]


def accumulate(sums: list[Tensor | None], found: Sequence[Tensor | None]) -> None:
    """Add the gradients of a chunk to those of earlier ones, in place; None adds nothing."""
    for index, grad in enumerate(found):
        if grad is not None:
            total = sums[index]
            # A copy of its own: parameters that are added up get one and the same tensor as their gradient.
            sums[index] = grad.clone() if total is None else total.add_(grad)
