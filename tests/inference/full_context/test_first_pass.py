"""The first pass of a prediction with the full context: how far it is, and where it stops."""

import signal
from pathlib import Path
from typing import Any

import pytest
from small_inputs import noise, raster, save

from xt.errors import Stopped
from xt.inference import views
from xt.inference.options import PredictOptions
from xt.inference.predict import predict_image
from xt.models.checkpoint import load_model
from xt.stopping import StopRequest


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with an image of 3 × 5 regions, and a model that encodes up to 4 of a row together."""
    raster(tmp_path / "a.tif", noise(1, 170, 290))
    save(tmp_path / "m", "semantic-segmentation", 1, 128, "Mamba")
    return tmp_path


def run(place: Path, out: str, stop: StopRequest | None = None) -> list[tuple[int, int]]:
    """Predict, and return the steps of the bar."""
    steps: list[tuple[int, int]] = []
    options = PredictOptions(context="full")
    given = place / "a.tif", place / out, options, lambda *step: steps.append(step), stop
    predict_image(*load_model(place / "m"), *given)
    return steps


def test_it_stops_after_a_batch_and_goes_on_with_the_next(place: Path, monkeypatch: pytest.MonkeyPatch):
    stop, plain, encoded = StopRequest(), views.encode, []

    def encode(model: Any, regions: Any) -> Any:
        encoded.append(len(regions))
        if len(encoded) == 3:
            stop.received = signal.SIGTERM
        return plain(model, regions)

    monkeypatch.setattr(views, "encode", encode)
    with pytest.raises(Stopped):
        run(place, "o.tif", stop)
    assert encoded == [4, 1, 4]
    steps = run(place, "o.tif")
    assert encoded[:6] == [4, 1, 4, 1, 4, 1]
    assert steps[:3] == [(10, 15), (14, 15), (15, 15)]
    assert sum(encoded) == 2 * 15
    assert (place / "o.tif").exists()


def test_the_bar_counts_regions(place: Path):
    assert run(place, "o.tif")[:6] == [(4, 15), (5, 15), (9, 15), (10, 15), (14, 15), (15, 15)]
