"""Ctrl-C and SIGTERM in long work: stop at the next boundary, with the state saved."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from xt.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def speaks() -> bool:
    """Whether this process says that it stops: of those that train together only the first of each machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


class StopRequest:
    """Takes the first signal as a request, which the work asks for between two steps; a second stops at once.

    Use as a context manager around the work, in the main thread; in others it takes no signals.

    Args:
        step: What is said to be finished first.

    Attributes:
        received: The signal that has arrived, or None.
    """

    def __init__(self, step: str = "step") -> None:
        self.step = step
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._set(self._before)

    def listen(self) -> None:
        """Take the signals over, also from Lightning, which would stop where the state cannot be saved."""
        self._set(dict.fromkeys(SIGNALS, self._receive))

    def check(self) -> None:
        """Stop if a signal has arrived.

        Raises:
            Stopped: With that signal.
        """
        if self.received is not None:
            raise Stopped(self.received)

    def stop(self) -> None:
        """Stop because this process, or another one that shares the work, was asked to.

        Raises:
            Stopped: With the signal that has arrived here, or else SIGTERM.
        """
        raise Stopped(self.received or signal.SIGTERM)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.check()
        self.received = number
        if speaks():  # not by print: the handler may run inside a print
            os.write(2, f"\nxt: stopping when this {self.step} is done; once more stops at once\n".encode())

    def _set(self, handlers: dict[int, Any]) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)
