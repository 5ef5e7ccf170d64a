"""The encoder keeps xT's contract."""

from collections.abc import Callable

import pytest
from xt_fading.context import FadingMeans


@pytest.mark.context_encoder(cls=FadingMeans, dim=32, depth=2)
def test_fading_means(context_encoder_check: Callable[[], None]) -> None:
    """One test for each check."""
    context_encoder_check()
