"""What computing a chunk a second time takes: the state that it was computed under, and sums of gradients."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xt.errors import ModelError


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


class Weights:
    """The parameters and buffers that modules have now, to be had again when a chunk is computed a second time.

    They are other tensors then where ``torch.func.functional_call`` lent them for the first time.

    Attributes:
        trained: Parameters that get a gradient.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.trained = [p for module in modules for p in module.parameters() if p.requires_grad]
        # Tensors of inference_mode have no version, and nothing is computed a second time there.
        self._versions = [p._version for p in self.trained] if torch.is_grad_enabled() else []
        self._places: list[tuple[dict[str, Any], str, Tensor | None]] = [
            (held, name, tensor)
            for module in modules
            for part in module.modules()
            for held in (part._parameters, part._buffers)
            for name, tensor in held.items()
        ]

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Give the modules what they had, and take it back afterwards.

        Raises:
            ModelError: If a parameter was changed in place meanwhile.
        """
        if [p._version for p in self.trained] != self._versions:
            raise ModelError(
                "parameters were changed between forward and backward, whose gradients would be those of another "
                "model; call backward before the optimizer's step"
            )
        now = [held[name] for held, name, _ in self._places]
        if all(mine is theirs for mine, (_, _, theirs) in zip(now, self._places, strict=True)):
            yield
            return
        try:
            for held, name, tensor in self._places:
                held[name] = tensor
            yield
        finally:
            for (held, name, _), tensor in zip(self._places, now, strict=True):
                held[name] = tensor


def accumulate(sums: list[Tensor | None], found: Sequence[Tensor | None]) -> None:
    """Add the gradients of a chunk to those of earlier ones, in place; None adds nothing."""
    for index, grad in enumerate(found):
        if grad is not None:
            total = sums[index]
            # A copy of its own: parameters that are added up get one and the same tensor as their gradient.
            sums[index] = grad.clone() if total is None else total.add_(grad)
