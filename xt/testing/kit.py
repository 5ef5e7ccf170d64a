"""Whether a class keeps its contract."""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch

from xt.errors import nearest
from xt.models.context.base import ContextEncoder
from xt.models.decoders.base import Decoder, DecoderInputs, PooledDecoder
from xt.models.region.base import RegionEncoder
from xt.testing.checks import cost, cuts, learning, locality, parts, places, repeats, shapes, shared, sizes
from xt.testing.context_subject import ContextSubject
from xt.testing.part_subjects import DECODED, DenseSubject, PooledSubject, RegionSubject
from xt.testing.report import DoesNotApplyError, Finding, Report
from xt.testing.subject import Subject

Checks = Mapping[str, Callable[[Any], str]]
"""Name → check, from what is basic to what is subtle."""

CHECKS: Checks = {
    "shape": shapes.shape,
    "lengths": shapes.lengths,
    "layouts": shapes.layouts,
    "extra": shapes.extra,
    "determinism": repeats.determinism,
    "batch": repeats.batch,
    "order": places.order,
    "reach": places.reach,
    "skipped": places.skipped,
    "origin": places.origin,
    "losses": learning.losses,
    "gradients": learning.gradients,
    "decay": shared.decay,
    "bf16": learning.bf16,
    "passes": cuts.passes,
    "steps": cuts.steps,
    "reuse": repeats.reuse,
    "saving": repeats.saving,
    "cost": cost.cost,
}
"""Of context encoders."""
_PARTS: Checks = {
    "gradients": parts.gradients,
    "zeros": parts.zeros,
    "bf16": parts.bf16,
    "saving": parts.saving,
}
REGION_CHECKS: Checks = {
    "shape": sizes.regions,
    "repeats": parts.repeats,
    "batch": parts.batch,
    "decay": shared.decay,
    **_PARTS,
}
DENSE_CHECKS: Checks = {
    "shape": sizes.dense,
    "repeats": parts.repeats,
    "batch": parts.batch,
    "window": locality.window,
    "halo": locality.halo,
    "tiles": locality.tiles,
    **_PARTS,
}
POOLED_CHECKS: Checks = {
    "shape": sizes.pooled,
    "class_token": sizes.class_token,
    "repeats": parts.repeats,
    "batch": parts.batch,
    **_PARTS,
}


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
    return _check(ContextSubject(cls, init_args, dim), CHECKS, without)


def check_region_encoder(
    cls: type[RegionEncoder], *, in_chans: int = 2, without: Collection[str] = (), **init_args: Any
) -> Report:
    """Check that a class of region encoders keeps its contract (:class:`~xt.models.region.base.RegionEncoder`).

    Args:
        cls: The class; known by name, as for :func:`check_context_encoder`.
        in_chans: Channels of a region.
        without: Names of checks (:data:`REGION_CHECKS`) not to make.
        **init_args: Other arguments of its constructor; small ones do, such as a small ``region_size``.

    Returns:
        What was checked; print it.

    Raises:
        EncoderFault: At the first fault, with the class, the fault and what to do.
    """
    return _check(RegionSubject(cls, init_args, in_chans), REGION_CHECKS, without)


def check_decoder(
    cls: type[Decoder],
    *,
    inputs: DecoderInputs = DECODED,
    without: Collection[str] = (),
    **init_args: Any,
) -> Report:
    """Check that a class of decoders keeps its contract (:class:`~xt.models.decoders.base.DenseDecoder` or pooled).

    Args:
        cls: The class; known by name, as for :func:`check_context_encoder`.
        inputs: What is decoded.
        without: Names of checks (:data:`DENSE_CHECKS`, :data:`POOLED_CHECKS`) not to make.
        **init_args: Other arguments of its constructor; small ones do.

    Returns:
        What was checked; print it.

    Raises:
        DecoderFault: At the first fault, with the class, the fault and what to do.
    """
    pooled = inspect.isclass(cls) and issubclass(cls, PooledDecoder)
    subject = (PooledSubject if pooled else DenseSubject)(cls, init_args, inputs)
    return _check(subject, POOLED_CHECKS if pooled else DENSE_CHECKS, without)


def run_check(name: str, subject: Subject, checks: Checks = CHECKS) -> Finding:
    """Make one check.

    Raises:
        ContractFault: If it finds a fault.
    """
    if not (inspect.isclass(subject.cls) and issubclass(subject.cls, subject.contracts)):
        wanted = " or ".join(contract.__name__ for contract in subject.contracts)
        raise subject.faults(f"{subject.cls!r} is no subclass of {wanted}; derive it from one of the contracts")
    with torch.random.fork_rng(devices=[]):
        try:
            return Finding(name, checks[name](subject))
        except DoesNotApplyError as reason:
            return Finding(name, str(reason), applies=False)


def _check(subject: Subject, checks: Checks, without: Collection[str]) -> Report:
    for name in without:
        if name not in checks:
            raise subject.faults(f"no check is named {name!r}{nearest(name, checks)}")
    findings = [
        Finding(name, "left out by the caller", applies=False) if name in without else run_check(name, subject, checks)
        for name in checks
    ]
    return Report(str(subject), tuple(findings))
