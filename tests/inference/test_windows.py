"""How large the windows are over which the context mixes, and what neighbours share: always whole regions of 64 px."""

from pathlib import Path

import pytest
from small_inputs import noise, raster, save

from xt.data.source import Source
from xt.inference.options import PredictOptions
from xt.inference.predict import plan_of
from xt.models.checkpoint import load_model

SIZES = {
    "of training, and one region": (128, {}, (2, 1)),
    "of training, and an eighth": (1024, {}, (16, 2)),
    "an eighth is rounded down": (960, {}, (15, 1)),
    "of training is rounded up": (130, {}, (3, 1)),
    "a window of one region shares none": (1, {}, (1, 0)),
    "those that are asked for": (128, {"tile": 256, "overlap": 128}, (4, 2)),
    "tile and overlap are rounded up": (128, {"tile": 257, "overlap": 65}, (5, 2)),
    "an overlap that becomes the window is cut": (128, {"tile": 100, "overlap": 99}, (2, 1)),
    "none": (128, {"tile": 256, "overlap": 0}, (4, 0)),
    "full context decodes in its own": (128, {"context": "full", "tile": 256}, (32, 0)),
}


@pytest.mark.parametrize("kind", SIZES)
def test_windows_are_whole_regions(tmp_path: Path, kind: str):
    image_size, options, want = SIZES[kind]
    model, metadata = load_model(save(tmp_path / "m", "semantic-segmentation", 1, image_size))
    source = Source(raster(tmp_path / "a.tif", noise(1, 70, 80)), metadata.inputs)
    plan = plan_of(model, metadata, source, PredictOptions(**options))
    assert (plan.side, plan.overlap) == want
    assert plan.batch == model.region_batch
    assert plan.halo == model.decoder.halo > 0


def test_nothing_is_looked_at_beyond_a_window_that_answers_as_a_whole(tmp_path: Path):
    model, metadata = load_model(save(tmp_path / "m", "classification", 1))
    source = Source(raster(tmp_path / "a.tif", noise(1, 70, 80)), metadata.inputs)
    assert plan_of(model, metadata, source, PredictOptions()).halo == 0
