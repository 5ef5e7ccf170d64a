"""What is taken in parts equals the whole."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from xt.geometry import order
from xt.geometry.grid import TokenLayout
from xt.models.context.base import Memory, Pass, RecurrentContextEncoder, SequentialContextEncoder
from xt.testing.context_subject import ContextSubject
from xt.testing.report import DoesNotApplyError
from xt.testing.subject import same

LENGTH = 24
CUTS = (range(1, LENGTH), (1,), (5, 17), (LENGTH - 1,), (2, 3, 11))


def cut_up(one: Pass, tokens: Tensor, cuts: Iterable[int]) -> tuple[Tensor, list[Memory]]:
    """Take a pass over segments.

    Args:
        one: The pass.
        tokens: ``(B, L, D)``.
        cuts: Where segments end.

    Returns:
        Mixed tokens in raster order, and the memory after each segment, in the order of reading.
    """
    bounds = [0, *sorted(cuts), tokens.shape[1]]
    segments = [tokens[:, start:stop] for start, stop in pairwise(bounds)]
    mixed: list[Tensor] = []
    memories: list[Memory] = []
    for segment in reversed(segments) if one.reverse else segments:
        out, memory = one.step(segment, memories[-1] if memories else None)
        mixed.append(out)
        memories.append(memory)
    return torch.cat(mixed[::-1] if one.reverse else mixed, 1), memories


def passes(subject: ContextSubject) -> str:
    """Passes of a :class:`SequentialContextEncoder`, cut anywhere, give what ``forward`` does."""
    encoder = subject.build()
    if not isinstance(encoder, SequentialContextEncoder):
        raise DoesNotApplyError("is no SequentialContextEncoder")
    layout = TokenLayout(1, LENGTH, 1)
    want = subject.answer(layout, "an ordinary layout")
    for cuts in CUTS:
        tokens = subject.tokens(layout)
        for index, one in enumerate(encoder.passes()):
            with subject.named(f"fails in pass {index} cut at {_places(cuts)}", "a segment may have one token or more"):
                tokens, memories = cut_up(one, tokens, cuts)
            _check_memory(subject, memories, f"pass {index}")
            width = one.channels or subject.dim
            if tokens.shape[2] != width:
                raise subject.fault(f"has {tokens.shape[2]} channels after pass {index}, where it says {width}")
        if not same(tokens.detach(), want):
            raise subject.fault(
                f"has passes that depend on the cut: cut at {_places(cuts)} of {LENGTH} tokens the answer is another "
                "than that of forward; all that a segment needs of those before must be in the memory"
            )
    return f"{len(encoder.passes())} passes, cut in {len(CUTS)} ways"


def steps(subject: ContextSubject) -> str:
    """``step`` of a :class:`RecurrentContextEncoder` over segments of an image gives what ``forward`` does."""
    encoder = subject.build()
    if not isinstance(encoder, RecurrentContextEncoder):
        raise DoesNotApplyError("is no RecurrentContextEncoder")
    size = encoder.segment_regions
    # Rows of three regions, the second of which does not exist, for six segments and a shorter one.
    rows = 2 * size + 1
    exists = tuple(region != 1 for region in range(3 * rows))
    for layout in (
        TokenLayout(rows, 3, 2, num_extra=1),
        TokenLayout(rows, 3, 2, exists, num_extra=1, origin=(4, 6)),
    ):
        want = subject.answer(layout, "an ordinary layout")
        for regions in (size, 2 * size):
            if not same(_in_steps(subject, encoder, layout, regions), want):
                raise subject.fault(
                    f"differs between step and forward: over segments of {regions} regions it gives another answer "
                    "than over the whole; carry in the memory all that later regions see, and take places of the scene"
                )
    return f"segments of {size} and {2 * size} regions"


def _in_steps(subject: ContextSubject, encoder: RecurrentContextEncoder, whole: TokenLayout, size: int) -> Tensor:
    tokens = subject.tokens(whole)
    region_of = torch.tensor(order.region_indices(whole))
    existing = sorted(set(region_of.tolist()))
    groups = [existing[first : first + size] for first in range(0, len(existing), size)]
    out = torch.full_like(tokens, torch.nan)
    memory: Memory | None = None
    held = []
    for group in groups:
        layout, last = whole.segment(group), group is groups[-1]
        here = torch.isin(region_of, torch.tensor(group)).nonzero()[:, 0]
        if last:
            layout = replace(layout, num_extra=whole.num_extra)
            here = torch.cat([here, torch.arange(len(region_of), whole.num_tokens)])
        with subject.named(f"fails in step on {len(group)} regions", "a segment is a run of regions that exist"):
            mixed, memory = encoder.step(tokens[:, here], layout, memory)
            out[:, here] = mixed.detach()
        if any(each.requires_grad for each in memory):
            raise subject.fault("has a memory with a gradient; detach what step returns for the next segment")
        held.append(sum(each.nbytes for each in memory))
    if len(held) > 5 and all(before < after for before, after in pairwise(held[:-1])):
        raise subject.fault(f"has a memory that grows with the image, {held} bytes; it must have a bound")
    return out


def _check_memory(subject: ContextSubject, memories: list[Memory], where: str) -> None:
    sizes = {tuple(each.shape for each in memory) for memory in memories}
    if len(sizes) > 1:
        raise subject.fault(f"has a memory whose shape changes with the segment in {where}; it must not grow")
    if any(each.requires_grad for memory in memories for each in memory):
        raise subject.fault(f"has a memory with a gradient in {where}; detach it")
    # A view keeps the whole segment alive that it was cut from.
    storages = ([each.untyped_storage() for each in memory] for memory in memories)
    if len({sum({each.data_ptr(): each.nbytes() for each in held}.values()) for held in storages}) > 1:
        raise subject.fault(f"has a memory that keeps its segment alive in {where}; clone what is cut from it")


def _places(cuts: Iterable[int]) -> str:
    places = list(cuts)
    return "every token" if len(places) == LENGTH - 1 else ", ".join(map(str, places))
