"""It learns: gradients, losses of its own, weight decay, bfloat16."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from xt.geometry.grid import TokenLayout
from xt.models.context.base import ContextEncoder
from xt.testing.report import DoesNotApplyError
from xt.testing.subject import Subject, told

LAYOUTS = (TokenLayout(3, 5, 2), TokenLayout(2, 2, 4, (True, False, True, True), num_extra=1))
BF16_ERROR = 0.1
"""Error in bfloat16, as a share of the answer's norm, that passes."""


def gradients(subject: Subject) -> str:
    """Every parameter and every token has a finite gradient."""
    encoder = subject.build().train()
    for layout in LAYOUTS:
        tokens = _backward(subject, encoder, layout)
        assert tokens.grad is not None
        if not tokens.grad.abs().amax(-1).gt(0).all():
            raise subject.fault("leaves tokens without a gradient; each must count for the answer")
    without, wrong = [], []
    for name, parameter in encoder.named_parameters():
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
    return f"all {len(list(encoder.parameters()))} parameters, and the tokens"


def losses(subject: Subject) -> str:
    """Losses of its own are finite scalars."""
    encoder, layout = subject.build().train(), LAYOUTS[0]
    subject.run(encoder, subject.tokens(layout), layout, "an ordinary layout")
    found = _losses(subject, encoder)
    if not found:
        raise DoesNotApplyError("has no losses of its own")
    for name, value in found.items():
        if not (isinstance(value, Tensor) and value.ndim == 0 and value.isfinite()):
            raise subject.fault(f"gives a loss {name!r} that is no finite scalar; losses() gives name → tensor ()")
    return ", ".join(found)


def decay(subject: Subject) -> str:
    """Names that weight decay must leave alone are parameters."""
    encoder = subject.build()
    with subject.named("fails to name parameters", "no_weight_decay() gives names of parameters"):
        names = encoder.no_weight_decay()
    if isinstance(names, str) or not isinstance(names, Collection):
        raise subject.fault(f"gives {told(names)} as no_weight_decay(); it is a set of names of parameters")
    unknown = sorted(set(names) - {name for name, _ in encoder.named_parameters()})
    if unknown:
        raise subject.fault(
            f"names {_some(unknown)} in no_weight_decay, which are no parameters; write them as named_parameters() does"
        )
    return f"{len(names)} parameters without weight decay"


def bf16(subject: Subject) -> str:
    """Weights and tokens in bfloat16, and autocast, as ``precision: bf16-mixed`` trains."""
    layout = LAYOUTS[1]
    want = subject.answer(layout, "an ordinary layout")
    encoder, tokens = subject.build().bfloat16(), subject.tokens(layout).bfloat16()
    with torch.no_grad():
        out = subject.run(encoder, tokens, layout, "bfloat16")
    if out.dtype != torch.bfloat16:
        raise subject.fault(f"turns bfloat16 into {out.dtype}; cast back with .to(tokens.dtype)")
    error = float((out.float() - want).norm() / want.norm())
    if error > BF16_ERROR:
        raise subject.fault(
            f"is {error:.0%} off in bfloat16; compute what sums or grows (decays, norms, softmax) in float32"
        )
    with torch.autocast("cpu", torch.bfloat16):
        encoder = subject.build().train()
        tokens = _backward(subject, encoder, layout, "bfloat16 by autocast")
    found = [tokens.grad, *(parameter.grad for parameter in encoder.parameters())]
    if not all(each.isfinite().all() for each in found if each is not None):
        raise subject.fault(
            "has gradients that are not finite in bfloat16 by autocast; compute what overflows in float32"
        )
    return f"{error:.1%} off; autocast, forward and backward"


def _backward(subject: Subject, encoder: ContextEncoder, layout: TokenLayout, on: str = "training") -> Tensor:
    """Go forward and backward from a weighted sum of all outputs and the losses; return the tokens."""
    tokens = subject.tokens(layout).requires_grad_()
    out = subject.run(encoder, tokens, layout, on)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
    total = (weight * out).sum() + sum(_losses(subject, encoder).values())
    with subject.named(
        f"fails in backward, {on}", "each operation needs a gradient, none may change its input in place"
    ):
        torch.autograd.backward(total)
    if tokens.grad is None:
        raise subject.fault("gives no gradient to the tokens; do not detach them")
    return tokens


def _losses(subject: Subject, encoder: ContextEncoder) -> dict[str, Tensor]:
    with subject.named("fails in losses()", "it gives name → scalar of the last forward"):
        found = encoder.losses()
    if not isinstance(found, Mapping):
        raise subject.fault(f"gives {told(found)} as losses(); it is a dict, name → scalar of the last forward")
    return dict(found)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
