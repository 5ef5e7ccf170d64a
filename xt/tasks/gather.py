"""One result of what several training processes have seen."""

from itertools import chain, zip_longest
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

T = TypeVar("T")


def is_distributed() -> bool:
    """Whether several processes train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def num_images(batch: Tensor) -> int:
    """Images of the batches ``(B, …)`` of all processes; each has as many."""
    return len(batch) * (dist.get_world_size() if is_distributed() else 1)


def gathered(mine: list[T]) -> list[T]:
    """What all processes have collected, in the order in which one alone would have (:class:`EpochSampler`)."""
    if not is_distributed():
        return mine
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    missing = object()
    return [each for each in chain.from_iterable(zip_longest(*parts, fillvalue=missing)) if each is not missing]


def summed(sums: Tensor) -> Tensor:
    """Sums over the batches of all processes.

    A loss of them is that of the joint batch. Its gradient, of which data-parallel training takes the mean over
    processes, is then also that of the joint batch, because each process gets the gradients of all added up.
    """
    if not is_distributed():
        return sums
    total: Tensor = _Sum.apply(sums)
    return total


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        total = mine.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone()
        dist.all_reduce(total)
        return total
