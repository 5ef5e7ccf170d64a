"""Whether a context encoder keeps its contract."""

import inspect
from collections.abc import Callable, Collection
from typing import Any

import torch

from xt.errors import nearest
from xt.models.context.base import ContextEncoder
from xt.testing.checks import cost, cuts, learning, places, repeats, shapes
from xt.testing.report import DoesNotApplyError, EncoderFault, Finding, Report
from xt.testing.subject import Subject

Check = Callable[[Subject], str]

CHECKS: dict[str, Check] = {
    "shape": shapes.shape,
    "lengths": shapes.lengths,
    "layouts": shapes.layouts,
    "extra": shapes.extra,
    "determinism": repeats.determinism,
    "batch": repeats.batch,
    "reach": places.reach,
    "skipped": places.skipped,
    "origin": places.origin,
    "losses": learning.losses,
    "gradients": learning.gradients,
    "decay": learning.decay,
    "bf16": learning.bf16,
    "passes": cuts.passes,
    "steps": cuts.steps,
    "saving": repeats.saving,
    "cost": cost.cost,
}
"""Name → check, from what is basic to what is subtle."""


def check_context_encoder(
    cls: type[ContextEncoder], *, dim: int = 32, without: Collection[str] = (), **init_args: Any
) -> Report:
    """Check that a class of context encoders keeps its contract (:class:`~xt.models.context.base.ContextEncoder`).

    Small sizes do: it takes a second or two on a CPU. What cuts cost by windows or thresholds must be given small ones,
    since 1,024 to 4,096 tokens are measured. The random state is left as it was.

    Args:
        cls: The class; known by name (``@xt.plugins.register`` or an entry point), as it must be to be saved.
        dim: Channels of a token, a multiple of 4.
        without: Names of checks (:data:`CHECKS`) not to make, such as ``reach`` of one that is local on purpose.
        **init_args: Other arguments of its constructor.

    Returns:
        What was checked; print it.

    Raises:
        EncoderFault: At the first fault, with the class, the fault and what to do.
    """
    for name in without:
        if name not in CHECKS:
            raise EncoderFault(f"no check is named {name!r}{nearest(name, CHECKS)}")
    subject = Subject(cls, dim, init_args)
    findings = [
        Finding(name, "left out by the caller", applies=False) if name in without else run_check(name, subject)
        for name in CHECKS
    ]
    return Report(str(subject), tuple(findings))


def run_check(name: str, subject: Subject) -> Finding:
    """Make one check.

    Raises:
        EncoderFault: If it finds a fault.
    """
    if not (inspect.isclass(subject.cls) and issubclass(subject.cls, ContextEncoder)):
        raise EncoderFault(f"{subject.cls!r} is no subclass of ContextEncoder; derive it from one of the contracts")
    with torch.random.fork_rng(devices=[]):
        try:
            return Finding(name, CHECKS[name](subject))
        except DoesNotApplyError as reason:
            return Finding(name, str(reason), applies=False)
