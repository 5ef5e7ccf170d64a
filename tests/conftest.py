"""Fixtures that every test may use."""

import os
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile(  # a machine that does other work too is slow, and no fault
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from tests that are not marked ``gpu``: what they compare is what a CPU makes."""
    if "gpu" not in config.option.markexpr.replace("not gpu", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real rasters, corrupt ones and golden answers; the test is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no test data at {SHARED_DATA}")
    return SHARED_DATA
