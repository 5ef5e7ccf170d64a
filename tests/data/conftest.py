import sys
from pathlib import Path

import pytest

# importlib mode adds no folder to the path; modules beside this file are shared by the tests of this folder.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def no_open_handles():
    """A test must not read what another one left open, nor hold files of folders that are gone."""
    yield
    from xt.data import handles

    handles.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images and objects of :mod:`point_images`."""
    from point_images import three_images

    return three_images(tmp_path)
