"""What a call costs, counted and not timed: the same on every machine."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class Counter(TorchDispatchMode):
    """Counts what operators do while it is entered.

    Attributes:
        elements: Elements that operators compute; views cost nothing. No operator is missed.
        multiplications: Floating-point operations of those that PyTorch's counter knows: products of matrices and
            convolutions, which do more work than the elements of their result show.
    """

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0
        self.multiplications = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call an operator and count it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        is_view = any(each.alias_info and not each.alias_info.is_write for each in func._schema.returns)
        if not is_view:
            self.elements += sum(each.numel() for each in tree_leaves(out) if isinstance(each, Tensor))
        if func._overloadpacket in flop_registry:
            self.multiplications += flop_registry[func._overloadpacket](*args, **kwargs, out_val=out)
        return out


@dataclass
class Kept:
    """Elements kept for backward while :func:`keeping` is entered."""

    elements: int = 0


@contextmanager
def counting() -> Iterator[Counter]:
    """Count operators. Fused attention is one, which hides its scores; the plain one, taken here, makes them."""
    with sdpa_kernel(SDPBackend.MATH), Counter() as counter:
        yield counter


@contextmanager
def keeping() -> Iterator[Kept]:
    """Count what is kept for backward."""
    kept = Kept()

    def pack(tensor: Tensor) -> Tensor:
        kept.elements += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def exponent(sizes: tuple[int, int], values: tuple[int, int]) -> float:
    """Return the exponent of growth between two sizes: 1 is linear, 2 quadratic; 0 where nothing is spent."""
    return math.log(values[1] / values[0]) / math.log(sizes[1] / sizes[0]) if min(values) else 0.0
