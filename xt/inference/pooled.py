"""Answers of a pooled model, painted over the windows that they are for."""

from collections.abc import Mapping, Sequence

import numpy as np

from xt.geometry.blend import Blend
from xt.geometry.grid import Window
from xt.geometry.plan import ScenePlan
from xt.tasks.base import Values


def painted_answers(
    plan: ScenePlan, answers: Mapping[int, Sequence[float] | None], channels: int, block: Window, blend: Blend
) -> Values:
    """Give each pixel of a block the answers for the windows in which it lies, blended.

    Args:
        plan: Of the scene.
        answers: Unit → answer for its window; None where that has no data.
        channels: Of an answer.
        block: Pixels.
        blend: How windows fade into each other.

    Returns:
        ``(channels, h, w)``.
    """
    sums = np.zeros((channels, block.height, block.width), np.float32)
    shares = np.zeros((block.height, block.width), np.float32)
    for unit in plan.covering(block):
        answer = answers[unit.index]
        if answer is None:
            continue
        window = plan.pixels_of(unit.window)
        inner = window.intersect(block)
        rows, cols = plan.weights(unit, plan.grid.region_size, blend)
        part = inner.within(window)
        weights = np.outer(rows[part.slices[0]], cols[part.slices[1]])
        at = inner.within(block).slices
        sums[:, *at] += np.array(answer, np.float32)[:, None, None] * weights
        shares[at] += weights
    sums[:, shares > 0] /= shares[shares > 0]
    return sums
