"""How long the stages of a prediction take."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch(Counter[str]):
    """Stage → seconds that it held up the main thread."""

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the time of a stage."""
        start = time.perf_counter()
        yield
        self[stage] += time.perf_counter() - start  # type: ignore[assignment]
