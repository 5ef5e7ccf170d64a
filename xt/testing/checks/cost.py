"""What the cost grows with."""

from itertools import pairwise

import torch

from xt.geometry.grid import TokenLayout
from xt.models.context.base import COSTS
from xt.testing.context_subject import ContextSubject
from xt.testing.counting import counting, exponent, keeping

LAYOUTS = (TokenLayout(4, 4, 8), TokenLayout(4, 8, 8), TokenLayout(8, 8, 8))
"""1,024, 2,048 and 4,096 tokens."""
UNITS = ("elements computed", "multiplications", "elements kept for backward")


def cost(subject: ContextSubject) -> str:
    """Work and memory, with gradients, grow no faster than the class says: see :data:`xt.models.context.base.COSTS`.

    They are counted, not timed, so an operation that is opaque to PyTorch (a kernel of one's own, NumPy) counts as what
    it returns; ``xt bench contexts`` times it.
    """
    allowed = COSTS.get(subject.cls.cost)
    if allowed is None:
        raise subject.fault(f"has cost {subject.cls.cost!r}; it is one of {', '.join(COSTS)}")
    spent = [spend(subject, LAYOUTS[0])]
    for before, layout in pairwise(LAYOUTS):
        spent.append(spend(subject, layout))
        sizes = before.num_tokens, layout.num_tokens
        found = {unit: exponent(sizes, (spent[-2][unit], spent[-1][unit])) for unit in UNITS}
        worst = max(found, key=lambda unit: found[unit])
        # A quadratic one is told at once, before its largest tensors are made.
        if found[worst] > allowed + (0.5 if layout is not LAYOUTS[-1] else 0.0):
            quadratic = "is quadratic" if found[worst] > 1.5 else "is not linear"
            raise subject.fault(
                f"{quadratic}: {worst} grow as tokens^{found[worst]:.2f} from {sizes[0]:,} to {sizes[1]:,} tokens, "
                f"where its cost is {subject.cls.cost!r} (at most {allowed}); compare no pairs of tokens, split the "
                "sequence instead of slicing it in a loop (the gradient of a slice is as long as all), give the kit "
                "smaller windows if arguments set them, or set cost on the class"
            )
    return f"{subject.cls.cost}: " + ", ".join(f"{unit} tokens^{value:.2f}" for unit, value in found.items())


def spend(subject: ContextSubject, layout: TokenLayout) -> dict[str, int]:
    """Count each of :data:`UNITS` of one call and its gradients."""
    tokens = subject.tokens(layout, batch=1).requires_grad_()
    encoder = subject.build().train()
    with counting() as counter, keeping() as kept:
        torch.autograd.backward(subject.run(encoder, tokens, layout, f"{layout.num_tokens:,} tokens").sum())
    return dict(zip(UNITS, (counter.elements, counter.multiplications, kept.elements), strict=True))
