"""What region encoders and decoders say of themselves, and what they give."""

from itertools import pairwise
from typing import Any

from xt.testing.part_subjects import DenseSubject, PooledSubject, RegionSubject
from xt.testing.subject import Subject, seen

COUNTS = (1, 2, 7, 64)


def regions(subject: RegionSubject) -> str:
    """Sizes are set and fit each other, and maps are of these sizes."""
    encoder = subject.build()
    in_chans, size = _number(subject, encoder, "in_chans"), _number(subject, encoder, "region_size")
    if in_chans != subject.in_chans:
        raise subject.fault(f"has in_chans {in_chans} where {subject.in_chans} was given; set self.in_chans = in_chans")
    channels, strides = (_numbers(subject, encoder, name) for name in ("channels", "strides"))
    if len(channels) != len(strides) or not strides:
        raise subject.fault(f"has channels {channels} and strides {strides}; give one of each for every map")
    if any(a >= b for a, b in pairwise(strides)):
        raise subject.fault(f"has strides {strides}; they ascend, the finest map first")
    for stride in strides:
        if size % stride:
            raise subject.fault(f"has region_size {size}, which stride {stride} does not divide; refuse such a size")
    for number in (1, 2):
        subject.answer(subject.inputs(number), f"{number} of regions {size} × {size}")
    return f"{size} × {size} px into maps of {channels} channels at strides {strides}"


def dense(subject: DenseSubject) -> str:
    """Sizes are set and fit the pyramid, and the map is of these sizes."""
    decoder = subject.build()
    stride, coarsest = _number(subject, decoder, "stride"), subject.coarsest
    halo = _number(subject, decoder, "halo", least=0)
    _number(subject, decoder, "out_channels")
    if coarsest % stride:
        raise subject.fault(f"has stride {stride}, which does not divide {coarsest}, the coarsest of the pyramid")
    if halo % coarsest:
        raise subject.fault(
            f"has halo {halo}, no multiple of {coarsest}, the coarsest stride; round it up, to "
            f"{-(-halo // coarsest) * coarsest}"
        )
    for rows, cols in ((1, 1), (4, 6), (5, 2)):
        subject.answer(subject.inputs(1, 0, rows, cols), f"{rows * coarsest} × {cols * coarsest} px")
    return f"{decoder.out_channels} channels at stride {stride}, halo {halo} px"


def pooled(subject: PooledSubject) -> str:
    """The size is set, and any number of tokens gives a vector of it."""
    channels = _number(subject, subject.build(), "out_channels")
    for count in COUNTS:
        subject.answer(subject.inputs(2, 0, count), "one token" if count == 1 else f"{count} tokens")
    return f"{channels} channels from {', '.join(map(str, COUNTS))} tokens"


def class_token(subject: PooledSubject) -> str:
    """A class token is read if one is asked for, and is not what all depends on if none is."""
    uses = getattr(subject.build(), "uses_class_token", None)
    if not isinstance(uses, bool):
        raise subject.fault(f"has uses_class_token {uses!r}; set it to True or False")
    (tokens,) = subject.inputs()
    changed = tokens.clone()
    changed[:, -1 if uses else slice(-1)] *= -1
    (before,), (after,) = (subject.answer([each], "ordinary tokens") for each in (tokens, changed))
    if uses and not seen(after, before):
        raise subject.fault("has uses_class_token True, but ignores that token, which comes last; read tokens[:, -1]")
    if not uses and not seen(after, before):
        raise subject.fault(
            "has uses_class_token False, but reads the last token alone, a corner of the image then; set it to "
            "True, or pool all"
        )
    return "the class token is read, last of all" if uses else "no class token, all tokens are read"


def _number(subject: Subject, module: Any, name: str, least: int = 1) -> int:
    value = getattr(module, name, None)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise subject.fault(f"has {name} {value!r}; set self.{name} to a whole number of at least {least}")
    return value


def _numbers(subject: Subject, module: Any, name: str) -> tuple[int, ...]:
    value = getattr(module, name, None)
    if not isinstance(value, tuple) or not all(isinstance(each, int) and each > 0 for each in value):
        raise subject.fault(f"has {name} {value!r}; set self.{name} to a tuple, one whole number for each map")
    return value
