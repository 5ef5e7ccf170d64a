"""Mean and deviation of many pixels, of which some are looked at."""

from pathlib import Path

import numpy as np
import pytest
from rasters import noise, write

from xt.data.masks import WINDOW
from xt.data.source import InputSpec, Source
from xt.data.statistics import measure
from xt.geometry.grid import Window

SPEC = InputSpec(("a", "b"), (), (), -1.0)


def sources(folder: Path) -> list[Source]:
    """Two rows of 12 windows, each window brighter than the one before."""
    found = []
    for number in range(2):
        image = np.abs(noise(2, WINDOW // 4, 12 * WINDOW, seed=number)) + 1
        image += np.repeat(np.arange(12 * number, 12 * number + 12), WINDOW) * 5.0
        found.append(Source(write(folder / f"{number}.tif", image), SPEC, None))
    return found


def test_windows_of_all_images_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    images, looked = sources(tmp_path), list[tuple[str, Window]]()
    plain = Source.read_raw
    every = measure(images)
    monkeypatch.setattr(
        Source, "read_raw", lambda self, window: looked.append((self.name, window)) or plain(self, window)
    )
    some = measure(images, most=12 * WINDOW * WINDOW // 4)
    assert len(looked) == len(set(looked)) == 12
    assert {name for name, _ in looked} == {"0", "1"}
    again = looked.copy()
    looked.clear()
    assert measure(images, most=12 * WINDOW * WINDOW // 4) == some
    assert looked == again
    assert (np.abs(np.subtract(some[0], every[0])) < 0.35 * np.array(every[1])).all()
    np.testing.assert_allclose(some[1], every[1], rtol=0.3)
    assert some != every
    looked.clear()
    assert measure(images, most=24 * WINDOW * WINDOW // 4) == every
    assert len(looked) == 24


def test_it_looks_on_until_every_band_has_a_pixel(tmp_path: Path):
    image = np.full((2, 64, 12 * WINDOW), -1, np.float32)
    image[:, 5, 11 * WINDOW + 3] = 7, 9
    source = Source(write(tmp_path / "a.tif", image), SPEC, None)
    assert measure([source], most=1)[0] == (7.0, 9.0)
