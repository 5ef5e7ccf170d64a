"""What checks of all kinds share: of parameters and their gradients, of bfloat16, and of names."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from xt import plugins
from xt.errors import PluginError
from xt.testing.subject import Subject, told

BF16_ERROR = 0.1
"""Error in bfloat16, as a share of the answer's norm, that passes."""
CHANGED = (
    "answers otherwise after saving and loading; what it draws or learns must be a parameter, a buffer that is saved, "
    "or follow from its arguments"
)


def decay(subject: Subject) -> str:
    """Names that weight decay must leave alone are parameters."""
    module = subject.build()
    with subject.named("fails to name parameters", "no_weight_decay() gives names of parameters"):
        names = module.no_weight_decay()
    if isinstance(names, str) or not isinstance(names, Collection):
        raise subject.fault(f"gives {told(names)} as no_weight_decay(); it is a set of names of parameters")
    unknown = sorted(set(names) - {name for name, _ in module.named_parameters()})
    if unknown:
        raise subject.fault(
            f"names {_some(unknown)} in no_weight_decay, which are no parameters; write them as named_parameters() does"
        )
    return f"{len(names)} parameters without weight decay"


def backward(subject: Subject, outputs: Sequence[Tensor], on: str, losses: Tensor | float = 0.0) -> None:
    """Go backward from a weighted sum of all outputs, and losses beside it."""
    generator = torch.Generator().manual_seed(9)
    total = sum(((torch.randn(out.shape, generator=generator) * out).sum() for out in outputs), losses)
    with subject.named(
        f"fails in backward, {on}", "each operation needs a gradient, none may change its input in place"
    ):
        torch.autograd.backward(total)  # type: ignore[arg-type]


def all_learn(subject: Subject, module: nn.Module) -> None:
    """Every parameter has a gradient, and it is finite."""
    without, wrong = [], []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any()):
            without.append(name)
        elif parameter.grad is not None and not parameter.grad.isfinite().all():
            wrong.append(name)
    if without:
        raise subject.fault(f"has parameters without a gradient: {_some(without)}; use them, or take them out")
    if wrong:
        raise subject.fault(
            f"has gradients that are not finite: {_some(wrong)}; look for a division by 0 or a root of 0"
        )


def bf16_error(subject: Subject, found: Sequence[Tensor], want: Sequence[Tensor]) -> float:
    """Return the error of answers in bfloat16, as a share of their norm."""
    for out in found:
        if out.dtype != torch.bfloat16:
            raise subject.fault(f"turns bfloat16 into {out.dtype}; cast back to the type of the input")
    one, other = (torch.cat([each.float().flatten() for each in outputs]) for outputs in (found, want))
    error = float((one - other).norm() / other.norm())
    if error > BF16_ERROR:
        raise subject.fault(
            f"is {error:.0%} off in bfloat16; compute what sums or grows (decays, norms, softmax) in float32"
        )
    return error


def finite_by_autocast(subject: Subject, module: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Gradients that were made by autocast are finite."""
    found = [each.grad for each in (*inputs, *module.parameters())]
    if not all(each.isfinite().all() for each in found if each is not None):
        raise subject.fault(
            "has gradients that are not finite in bfloat16 by autocast; compute what overflows in float32"
        )


def known_name(subject: Subject, module: nn.Module) -> str:
    """Return the name by which a class is saved."""
    try:
        return plugins.short_name(module)
    except PluginError as error:
        raise subject.fault(f"cannot be saved by name: {error}, or declare an entry point xt.{subject.kind}") from error


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
