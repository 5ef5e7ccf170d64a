"""What is said reaches far, and depends on tokens and their places alone."""

from xt.geometry.grid import TokenLayout
from xt.testing.checks.shapes import PLAIN
from xt.testing.context_subject import ContextSubject
from xt.testing.subject import same, seen

FIRST, LAST = [0, 1, 8, 9], [-1, -2, -9, -10]
"""Tokens of the first and the last of 4 × 4 regions of 2 × 2."""


def order(subject: ContextSubject) -> str:
    """Tokens come back in the order in which they were given.

    What is said of a token is mostly about itself. Of tokens that were put into another order and not brought back
    each is about one other, more than twice as much.
    """
    layout = TokenLayout(2, 3, 2)
    tokens, num = subject.tokens(layout, batch=1), layout.num_tokens
    changed = tokens.repeat(num + 1, 1, 1)
    changed[range(num), range(num)] *= -1
    answers = subject.answer(layout, "one token changed", changed)
    change = (answers[:num] - answers[num]).norm(dim=-1)  # of each token, by each that was changed
    strongest, place = change.max(dim=1)
    moved = int((change.diagonal() < 0.5 * strongest).sum())
    if moved > num // 2 and len(set(place.tolist())) > 0.9 * num:
        raise subject.fault(
            f"gives tokens back in another order: what token 0 says is found at place {int(place[0])}, and {moved} of "
            f"{num} are moved so; bring them back, as permute(tokens, order.inverse(index)) does"
        )
    return "each token answers at its own place"


def skipped(subject: ContextSubject) -> str:
    """A row or column of regions that do not exist at the end of the map changes nothing."""
    want = subject.answer(PLAIN, "an ordinary layout")
    row = TokenLayout(3, 2, 4, (True, True, True, True, False, False))
    column = TokenLayout(2, 3, 4, (True, True, False, True, True, False))
    for what, layout in (("row", row), ("column", column)):
        if not same(subject.answer(layout, f"a last {what} left out"), want):
            raise subject.fault(
                f"answers otherwise when a last {what} of regions is there that does not exist; use places "
                "(order.positions(layout)) and counts of tokens that exist, not the extent of the map"
            )
    return "regions that do not exist change nothing"


def origin(subject: ContextSubject) -> str:
    """Tokens at the same places of a scene get the same answer, whatever tells the places."""
    # Multiples of 32 tokens: windows whose sides are powers of two lie alike.
    part, rows, cols, side = TokenLayout(2, 3, 4), 8, 16, 4
    moved = TokenLayout(2, 3, side, origin=(rows * side, cols * side))
    exists = tuple(row >= rows and col >= cols for row in range(rows + 2) for col in range(cols + 3))
    by_regions = subject.answer(TokenLayout(rows + 2, cols + 3, side, exists), "a part of a scene")
    by_origin = subject.answer(moved, "a part of a scene with an origin")
    plain = subject.answer(part, "a part of a scene without an origin")
    if same(by_origin, by_regions):
        return "places count" if seen(by_origin, plain) else "an answer does not depend on the place in the scene"
    if same(by_origin, plain):
        raise subject.fault(
            "forgets the origin: tokens of a part of a scene are taken for those at its corner; take "
            "order.scene_positions(layout), which counts layout.origin, instead of order.positions(layout)"
        )
    raise subject.fault(
        "reads the origin in another way than places: the same tokens at the same places of a scene get two answers; "
        "take order.scene_positions(layout) alone"
    )


def reach(subject: ContextSubject) -> str:
    """What is said of one corner of the map reaches the other."""
    layout = TokenLayout(4, 4, 2)
    tokens = subject.tokens(layout)
    plain = subject.answer(layout, "4 × 4 regions", tokens)
    heard = {}
    for source, target in ((FIRST, LAST), (LAST, FIRST)):
        changed = tokens.clone()
        changed[:, source] *= -1  # not a constant, which layer normalisation would take away
        heard[source is FIRST] = seen(subject.answer(layout, "4 × 4 regions", changed)[:, target], plain[:, target])
    if not any(heard.values()):
        raise subject.fault(
            "ignores far tokens: neither the first nor the last of 4 × 4 regions changes with the other; context must "
            "cross the image (deeper, or larger windows, if arguments set its reach)"
        )
    if all(heard.values()):
        return "both ways across 4 × 4 regions"
    return (
        "from the first of 4 × 4 regions to the last" if heard[True] else "from the last of 4 × 4 regions to the first"
    )
