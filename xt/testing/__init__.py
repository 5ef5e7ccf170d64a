"""Tests of plug-ins: whether a class of one's own keeps its contract, and what context costs.

    from xt.testing import check_context_encoder, check_decoder, check_region_encoder
    print(check_context_encoder(MyContext, dim=32, depth=2))
    print(check_region_encoder(MyEncoder, in_chans=2, region_size=64))
    print(check_decoder(MyDecoder, filters=(8, 8, 8)))

In pytest one test for each check of a context encoder (:mod:`xt.testing.pytest_plugin`)::

    @pytest.mark.context_encoder(cls=MyContext, dim=32, depth=2)
    def test_my_context(context_encoder_check):
        context_encoder_check()

Names are imported when they are first used: pytest imports this package wherever xt is installed.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xt.testing.kit import check_context_encoder, check_decoder, check_region_encoder
    from xt.testing.report import ContractFault, DecoderFault, EncoderFault, Report

_HOMES = {
    "ContractFault": "xt.testing.report",
    "DecoderFault": "xt.testing.report",
    "EncoderFault": "xt.testing.report",
    "Report": "xt.testing.report",
    "check_context_encoder": "xt.testing.kit",
    "check_decoder": "xt.testing.kit",
    "check_region_encoder": "xt.testing.kit",
}

__all__ = [
    "ContractFault",
    "DecoderFault",
    "EncoderFault",
    "Report",
    "check_context_encoder",
    "check_decoder",
    "check_region_encoder",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'xt.testing' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
