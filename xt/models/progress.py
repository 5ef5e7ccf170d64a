"""Tells how far a streamed pass is, to whoever listens."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Listener = Callable[[str, int, int], None]
"""Called with what is done (``encode regions``), how many of it, and of how many."""
T = TypeVar("T")

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call ``listener`` while streamed passes run in this context."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def current() -> Listener | None:
    """The listener of this context; a backward pass, maybe in another thread, keeps that of its forward pass."""
    return _listener.get()


def told(
    items: Sequence[T], what: str, listener: Listener | None, size: Callable[[T], int] | None = None
) -> Iterator[T]:
    """Iterate, and tell the listener after each item.

    Args:
        items: What is gone through.
        what: What is told.
        listener: None tells nobody.
        size: How much an item counts; 1 by default.
    """
    if listener is None:
        yield from items
        return
    sizes = [size(item) if size else 1 for item in items]
    done, total = 0, sum(sizes)
    for item, count in zip(items, sizes, strict=True):
        yield item
        done += count
        listener(what, done, total)
