"""A pytest plug-in, loaded wherever xt is installed: one test for each check of a context encoder.

A test that takes the fixture ``context_encoder_check`` and has the marker ``context_encoder`` becomes one test for each
check, named after it (``test_my_context[origin]``)::

    @pytest.mark.context_encoder(cls=MyContext, dim=32, depth=2)
    def test_my_context(context_encoder_check):
        context_encoder_check()

The marker takes by name what :func:`xt.testing.check_context_encoder` does. A check that does not apply is skipped, and
says why.
"""

from collections.abc import Callable

import pytest

FIXTURE = "context_encoder_check"
MARKER = "context_encoder"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", f"{MARKER}(*, cls, dim=32, without=(), **init_args): what {FIXTURE} checks")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each check."""
    if FIXTURE in metafunc.fixturenames:
        from xt.testing.kit import CHECKS

        metafunc.parametrize(FIXTURE, list(CHECKS), indirect=True)


@pytest.fixture
def context_encoder_check(request: pytest.FixtureRequest) -> Callable[[], None]:
    """Return a function that makes one check of the class in the test's marker."""
    from xt.testing.context_subject import ContextSubject
    from xt.testing.kit import run_check

    marker = request.node.get_closest_marker(MARKER)
    init_args = {} if marker is None else dict(marker.kwargs)
    if "cls" not in init_args:
        raise pytest.UsageError(f"a test with {FIXTURE} needs @pytest.mark.{MARKER}(cls=MyContext, dim=32)")
    without = init_args.pop("without", ())
    subject = ContextSubject(init_args.pop("cls"), init_args, init_args.pop("dim", 32))

    def check() -> None:
        if request.param in without:
            pytest.skip("left out by the marker")
        finding = run_check(request.param, subject)
        if not finding.applies:
            pytest.skip(finding.text)

    return check
