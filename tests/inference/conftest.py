import os
import sys
from pathlib import Path

import pytest

# importlib mode adds no folder to the path; small_inputs.py is shared by the tests of this folder.
sys.path.insert(0, str(Path(__file__).parent))

from small_inputs import RUNS, noise, raster, save

from xt.inference import vectorize


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with images and a model that takes one band."""
    monkeypatch.chdir(tmp_path)
    raster(tmp_path / "a.tif", noise(1, 40, 50))
    (tmp_path / "b").mkdir()
    raster(tmp_path / "b" / "c.tif", noise(1, 40, 50))
    raster(tmp_path / "data.gpkg", noise(1, 40, 50))
    (tmp_path / "scene").mkdir()
    raster(tmp_path / "scene" / "b0.tif", noise(1, 40, 50))
    (tmp_path / "link.tif").symlink_to("a.tif")
    (tmp_path / "linked").symlink_to("b")
    os.link(tmp_path / "a.tif", tmp_path / "hard.tif")
    for run, task in RUNS.items():
        save(tmp_path / run / "model", task, 1)
    return tmp_path


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips of few rows and batches of few polygons."""
    monkeypatch.setattr(vectorize, "STRIP_PIXELS", 500)
    monkeypatch.setattr(vectorize, "BATCH_CORNERS", 60)
