"""Every length and layout works, and each token comes back."""

import torch

from xt.geometry.grid import TokenLayout
from xt.testing.context_subject import ContextSubject, describe
from xt.testing.subject import seen

PLAIN = TokenLayout(2, 2, 4)
LENGTHS = (1, 2, 3, 7, 15, 33, 100, 257)
LAYOUTS = (
    TokenLayout(1, 1, 5),
    TokenLayout(1, 4, 2),
    TokenLayout(5, 1, 3),
    TokenLayout(3, 5, 2),
    TokenLayout(2, 2, 4, (True, False, False, True)),
    TokenLayout(2, 3, 3, (False, True, True, True, True, False)),
)


def shape(subject: ContextSubject) -> str:
    """An ordinary layout: as many tokens and channels come back, in the type they came in."""
    encoder = subject.build()
    dim = getattr(encoder, "dim", None)
    if dim != subject.dim:
        raise subject.fault(f"has dim {dim} where {subject.dim} was given; set self.dim = dim in its constructor")
    with subject.named("fails to estimate memory", "working_bytes(num_tokens) must give bytes"):
        estimate = encoder.working_bytes(PLAIN.num_tokens)
    if estimate < 0:
        raise subject.fault(f"estimates {estimate} bytes of memory; working_bytes must give 0 or more")
    tokens = subject.tokens(PLAIN)
    out = subject.answer(PLAIN, "an ordinary layout", tokens)
    if out.dtype != tokens.dtype:
        raise subject.fault(f"turns float32 into {out.dtype}; tokens come back in the type they came in")
    if not torch.equal(tokens, subject.tokens(PLAIN)):
        raise subject.fault("changes the tokens that it is given; write tokens = tokens + …, not tokens += …")
    return describe(PLAIN)


def lengths(subject: ContextSubject) -> str:
    """One token, odd and prime lengths."""
    for length in LENGTHS:
        on = "one token" if length == 1 else f"{'an odd' if length % 2 else 'an even'} length, {length} tokens"
        subject.answer(TokenLayout(1, length, 1), on)
    return f"{', '.join(map(str, LENGTHS))} tokens"


def layouts(subject: ContextSubject) -> str:
    """One region, maps that are not square, regions that do not exist."""
    for layout in LAYOUTS:
        square = layout.region_rows == layout.region_cols
        on = "one region" if layout.num_regions == 1 else "a square map" if square else "a map that is not square"
        subject.answer(layout, on if layout.exists is None else f"{on} with regions left out")
    return f"{len(LAYOUTS)} layouts: one region, rows, columns, regions left out"


def extra(subject: ContextSubject) -> str:
    """Tokens without a place come last, and ``last_sees`` tells the truth."""
    for layout in (TokenLayout(1, 1, 1, num_extra=1), TokenLayout(2, 3, 2, num_extra=3)):
        subject.answer(layout, "extra tokens")
    layout = TokenLayout(2, 2, 3, num_extra=1)
    tokens = subject.tokens(layout)
    changed = tokens.clone()
    changed[:, :-1] *= -1
    answers = [subject.answer(layout, "a class token", each)[:, -1] for each in (tokens, changed)]
    sees, says = seen(*answers), subject.build().last_sees
    if sees and not says:
        raise subject.fault("has last_sees False, but the last token sees others; leave it at True")
    if says and not sees:
        raise subject.fault(
            "has last_sees True, but its last token sees no other, as a class token must; return False, or read forward"
        )
    return "the last token sees others" if sees else "the last token sees no other, as last_sees says"
