"""Pictures of the first validation images."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from xt.tasks.preview import Panel
from xt.tasks.regression import PixelRegression
from xt.training.module import TrainingModule
from xt.training.samples import SHOWN, Samples


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> TrainingModule:
    """Draws images in the grey that the model says."""

    def preview(self: Any, batch: Any, index: int, raw: Any) -> list[Panel]:
        return [Panel("", np.full((4, 5, 3), int(raw["value"]), np.uint8))]

    monkeypatch.setattr(PixelRegression, "preview", preview)
    return TrainingModule(PixelRegression(), None)  # type: ignore[arg-type]


def validate(samples: Samples, module: TrainingModule, grey: int, names: list[str], **trainer: bool) -> None:
    """A validation in which every image is a batch."""
    state: Any = SimpleNamespace(is_global_zero=True, state=SimpleNamespace(fn="fit"), sanity_checking=False)
    vars(state).update(trainer)
    samples.on_validation_start(state, module)
    for index, name in enumerate(names):
        batch = {"name": [name]}
        samples.on_validation_batch_end(state, module, {"value": torch.tensor([grey])}, batch, index)
    samples.on_validation_end(state, module)


def test_the_first_images_are_drawn_anew_at_each_validation(tmp_path: Path, module: TrainingModule):
    samples = Samples(tmp_path)
    names = [f"{name}.tif" for name in "abcdef"]
    validate(samples, module, 10, names, sanity_checking=True)
    assert not (tmp_path / "samples").exists()
    first = [f"{index}_{name}.png" for index, name in enumerate("abcd")]
    contents = []
    for grey in (20, 30):
        validate(samples, module, grey, names)
        drawn = sorted((tmp_path / "samples").iterdir())
        assert [path.name for path in drawn] == first
        assert len(drawn) == SHOWN
        contents.append([path.read_bytes() for path in drawn])
    assert all(before != after for before, after in zip(*contents, strict=True))


def test_what_a_check_before_training_saw_is_not_drawn(tmp_path: Path, module: TrainingModule):
    samples = Samples(tmp_path)
    validate(samples, module, 10, ["a.tif", "b.tif"], sanity_checking=True)
    validate(samples, module, 20, ["c.tif"])
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["0_c.png"]
    validate(Samples(tmp_path / "other"), module, 20, ["c.tif"], is_global_zero=False)
    assert not (tmp_path / "other").exists()
