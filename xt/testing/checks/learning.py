"""It learns: gradients, losses of its own, bfloat16."""

from collections.abc import Mapping

import torch
from torch import Tensor

from xt.geometry.grid import TokenLayout
from xt.models.context.base import ContextEncoder
from xt.testing.checks.shared import all_learn, backward, bf16_error, finite_by_autocast
from xt.testing.context_subject import ContextSubject
from xt.testing.report import DoesNotApplyError
from xt.testing.subject import told

LAYOUTS = (TokenLayout(3, 5, 2), TokenLayout(2, 2, 4, (True, False, True, True), num_extra=1))


def gradients(subject: ContextSubject) -> str:
    """Every parameter and every token has a finite gradient."""
    encoder = subject.build().train()
    for layout in LAYOUTS:
        tokens = _backward(subject, encoder, layout)
        assert tokens.grad is not None
        if not tokens.grad.abs().amax(-1).gt(0).all():
            raise subject.fault("leaves tokens without a gradient; each must count for the answer")
    all_learn(subject, encoder)
    return f"all {len(list(encoder.parameters()))} parameters, and the tokens"


def losses(subject: ContextSubject) -> str:
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


def bf16(subject: ContextSubject) -> str:
    """Weights and tokens in bfloat16, and autocast, as ``precision: bf16-mixed`` trains."""
    layout = LAYOUTS[1]
    want = subject.answer(layout, "an ordinary layout")
    encoder, tokens = subject.build().bfloat16(), subject.tokens(layout).bfloat16()
    with torch.no_grad():
        out = subject.run(encoder, tokens, layout, "bfloat16")
    error = bf16_error(subject, [out], [want])
    with torch.autocast("cpu", torch.bfloat16):
        encoder = subject.build().train()
        tokens = _backward(subject, encoder, layout, "bfloat16 by autocast")
    finite_by_autocast(subject, encoder, [tokens])
    return f"{error:.1%} off; autocast, forward and backward"


def _backward(subject: ContextSubject, encoder: ContextEncoder, layout: TokenLayout, on: str = "training") -> Tensor:
    """Go forward and backward from a weighted sum of all outputs and the losses; return the tokens."""
    tokens = subject.tokens(layout).requires_grad_()
    out = subject.run(encoder, tokens, layout, on)
    backward(subject, [out], on, sum(_losses(subject, encoder).values()))
    if not torch.equal(tokens.detach(), subject.tokens(layout)):
        raise subject.fault("changes the tokens that it is given, in training; write tokens = tokens + …")
    if tokens.grad is None:
        raise subject.fault("gives no gradient to the tokens; do not detach them")
    return tokens


def _losses(subject: ContextSubject, encoder: ContextEncoder) -> dict[str, Tensor]:
    with subject.named("fails in losses()", "it gives name → scalar of the last forward"):
        found = encoder.losses()
    if not isinstance(found, Mapping):
        raise subject.fault(f"gives {told(found)} as losses(); it is a dict, name → scalar of the last forward")
    return dict(found)
