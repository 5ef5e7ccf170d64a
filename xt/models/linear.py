"""Linear layers through oneDNN, which ships with PyTorch, where PyTorch itself calls MKL: fp32 on an x86 processor.

The same parameters and, but for rounding, the same results. Gradients of weights are left to MKL, the faster one there.
"""

import platform
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import GELU, Mlp
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

FEWEST = 2**18
"""Products of numbers in a call that is worth the way."""
ARGUMENTS = ["Tensor", "Tensor", "Optional[Tensor]", "str", "List[Optional[number]]", "Optional[str]"]


class Linear(nn.Linear):
    """PyTorch's layer."""

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C)`` to ``(..., D)``."""
        return linear(x, self.weight, self.bias)


class FusedMlp(Mlp):  # type: ignore[misc]
    """timm's layer, its first half in one step where no gradients are asked for."""

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C)`` to ``(..., C)``."""
        if not isinstance(self.fc1, nn.Linear):  # convolutions of one pixel
            other: Tensor = super().forward(x)
            return other
        gelu = isinstance(self.act, GELU) or (type(self.act) is nn.GELU and self.act.approximate == "none")
        x = linear(x, self.fc1.weight, self.fc1.bias, gelu)
        out: Tensor = self.drop2(self.fc2(self.norm(self.drop1(x if gelu else self.act(x)))))
        return out


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    """``x Wᵀ + b``, as :func:`torch.nn.functional.linear`.

    Args:
        x: ``(..., C)``.
        weight: ``(D, C)``.
        bias: ``(D,)``.
        gelu: Put the result through GELU; without gradients that happens while it is in a core's registers.

    Returns:
        ``(..., D)``.
    """
    if not _suits(x, weight, bias):
        y = F.linear(x, weight, bias)
        return F.gelu(y) if gelu else y
    rows = x.reshape(-1, x.shape[-1])
    if gelu and not torch.is_grad_enabled():
        y = _call(rows, weight, bias, "gelu")
    else:
        y = _Linear.apply(rows, weight, bias)
        y = F.gelu(y) if gelu else y
    return y.view(*x.shape[:-1], -1)


def _suits(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    if x.device.type != "cpu" or torch.compiler.is_compiling() or not _available():
        return False
    plain = all(
        type(each) in (Tensor, nn.Parameter) and each.dtype == torch.float32 and each.device.type == "cpu"
        for each in (x, weight, bias)
        if each is not None
    )
    return plain and x.numel() * len(weight) >= FEWEST and not torch.is_autocast_enabled("cpu")


def _available() -> bool:
    fits = OPERATOR is not None and platform.machine() in ("x86_64", "AMD64")
    return fits and torch._C._has_mkldnn and bool(torch.backends.mkldnn.enabled)


def _operator() -> Callable[..., Tensor] | None:
    """What Inductor calls; no public name, so it is taken only if its arguments are those that it has here."""
    try:
        found: Any = torch.ops.mkldnn._linear_pointwise.default
    except AttributeError:
        return None
    return found if [str(each.type) for each in found._schema.arguments] == ARGUMENTS else None


OPERATOR = _operator()


def _call(x: Tensor, weight: Tensor, bias: Tensor | None, then: str = "none") -> Tensor:
    assert OPERATOR is not None
    return OPERATOR(x, weight, bias, then, [], "none")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _call(x, weight, bias)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (x, weight), needed = ctx.saved_tensors, ctx.needs_input_grad  # type: ignore[attr-defined]
        of_x: Tensor | None = _Linear.apply(grad, weight.mT, None) if needed[0] else None
        of_weight = grad.mT @ x if needed[1] else None
        return of_x, of_weight, grad.sum(0) if needed[2] else None
