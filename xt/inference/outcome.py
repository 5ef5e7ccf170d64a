"""What the work on a scene, or on a share of it, has made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xt.inference.cog import Part
from xt.inference.stopwatch import Stopwatch


@dataclass
class Counts:
    """What has happened to the regions of a scene.

    Attributes:
        regions: Encoded so far, or found empty or bad.
        own: Of these, the ones that no other share counts.
        empty: Of the own ones, those without a valid pixel.
        bad: Of the own ones, those that could not be read.
    """

    regions: int = 0
    own: int = 0
    empty: int = 0
    bad: int = 0


@dataclass
class Outcome:
    """What the work on a scene has made.

    Attributes:
        parts: Of the raster.
        counts: Of the regions.
        answers: Unit → what a pooled model says of its window; None where that has no data.
        seconds: By stage.
    """

    parts: list[Part]
    counts: Counts
    answers: Mapping[int, Sequence[float] | None]
    seconds: Stopwatch

    @property
    def mean(self) -> npt.NDArray[np.float64] | None:
        """Mean over the windows with data of a pooled model's answers; None if there is none."""
        known = [answer for _, answer in sorted(self.answers.items()) if answer is not None]
        return np.mean(np.array(known, np.float64), axis=0) if known else None
