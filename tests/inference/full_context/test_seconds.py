"""What the report of a prediction with the full context says of time."""

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from small_inputs import noise, raster, save

from xt.inference import engine, stopwatch, views
from xt.inference.options import PredictOptions
from xt.inference.predict import predict_image
from xt.models.checkpoint import load_model


def run(path: Path, model: Path, out: Path) -> None:
    predict_image(*load_model(model), path, out, PredictOptions(context="full"))


def test_seconds_of_both_passes_are_reported_after_a_stop_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine, "COMMIT_SECONDS", 0.0)
    ticks = count()
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: float(next(ticks)))  # a stage takes 1
    path, model = (
        raster(tmp_path / "a.tif", noise(2, 330, 400)),
        save(tmp_path / "m", "point-detection", 2, 128, "Mamba"),
    )
    run(path, model, tmp_path / "whole.tif")
    want = json.loads((tmp_path / "whole.report.json").read_text())["seconds"]
    assert want["first read"] == want["first encode"] == want["encode"] == want["read"] > 5
    assert want["first context"] == 1
    plain, calls = views.encode, []

    def encode(*given: Any) -> Any:
        calls.append(0)
        if len(calls) == want["encode"] + 3:  # in the second pass
            raise KeyboardInterrupt
        return plain(*given)

    monkeypatch.setattr(views, "encode", encode)
    with pytest.raises(KeyboardInterrupt):
        run(path, model, tmp_path / "o.tif")
    run(path, model, tmp_path / "o.tif")
    got = json.loads((tmp_path / "o.report.json").read_text())["seconds"]
    for name in ("first read", "first encode", "first context"):
        assert got[name] == want[name]
