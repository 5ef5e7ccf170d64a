"""What ``xt export`` is asked for, and what it tells; no graph is made."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_inputs import save
from torch import Tensor

from xt.cli.main import main
from xt.errors import ConfigError, OutputError
from xt.files import locked
from xt.inference import export
from xt.inference.export import export_model
from xt.models.checkpoint import load_model


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(
        tmp_path_factory.mktemp("small") / "model", "classification", 2, image_size=96, depth=1, context="Mamba"
    )


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the images of which graphs would be made, and of those that these are checked with."""
    shapes: list[tuple[int, ...]] = []
    models: list[Any] = []

    def trace(exported: Any, image: Tensor, any_batch: bool) -> None:
        shapes.append(tuple(image.shape))
        models.append(exported)

    def write(program: object, path: Path, told: object, image: Tensor, names: list[str]) -> dict[str, Tensor]:
        shapes.append(tuple(image.shape))
        path.write_bytes(bytes(1_500_000))
        found = models[-1](image)
        return found | {"scores": found["scores"] + 2e-5}

    monkeypatch.setattr(export, "_traced", trace)
    monkeypatch.setattr(export, "_check_graph", lambda *given: None)
    for name in ("pt2", "onnx"):
        monkeypatch.setitem(export._WRITERS, name, write)
    return shapes


@pytest.mark.parametrize(
    ("options", "shapes"),
    [
        ([], [(1, 2, 96, 96)] * 2),
        (["--size", "64x80", "--batch", "3"], [(3, 2, 64, 80)] * 2),
        (["--size", "64X80", "--batch", "any"], [(2, 2, 64, 80), (3, 2, 64, 80)]),
        (["--size", "64×80", "--format", "onnx"], [(1, 2, 64, 80)] * 2),
    ],
)
def test_images_are_of_the_size_that_is_asked_for_or_of_training(
    options: list[str], shapes: list[tuple[int, ...]], small: Path, tmp_path: Path, traced: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    (tmp_path / "my_export_module.py").write_text("print('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_export_module", raising=False)
    out = tmp_path / ("a.ONNX" if "onnx" in options else "a.pt2")
    argv = ["export", str(small), "-o", str(out), *options]
    assert main([*argv, "--plugins", "my_export_module", "--json"]) == 0
    assert traced == shapes
    imported, told = capsys.readouterr().out.splitlines()
    facts = json.loads(told)
    count = -1 if "any" in options else shapes[0][0]
    assert facts == {
        "path": str(out), "image": [count, *shapes[0][1:]], "outputs": {"scores": [count, 3], "class": [count]},
        "difference": pytest.approx(2e-5, rel=0.02), "bytes": 1_500_000,
    }  # fmt: skip
    assert imported == "imported"
    for model in (str(small), "none"):  # before a model is loaded
        assert main(["export", model, *argv[2:]]) == 2
        assert f"{out} exists" in capsys.readouterr().err
    assert main([*argv, "--overwrite"]) == 0
    shown = "any" if count < 0 else count
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith(
        f": image {' × '.join(map(str, [shown, *shapes[0][1:]]))} → scores {shown} × 3, class {shown}"
    )
    assert second == f"1.5 MB; differs from the model by {facts['difference']:.1e} of the largest value"


def test_sizes_without_a_pixel_are_refused(small: Path, tmp_path: Path):
    model, metadata = load_model(small)
    with pytest.raises(ConfigError, match="size 0x5 and batch 1 must be at least 1"):
        export_model(model, metadata, tmp_path / "a.pt2", size=(0, 5))
    with pytest.raises(ConfigError, match="size 96x96 and batch 0 must be at least 1"):
        export_model(model, metadata, tmp_path / "a.pt2", batch=0)


@pytest.mark.usefixtures("traced")
def test_a_file_that_somebody_else_writes_is_left_alone(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out, given = tmp_path / "a.pt2", load_model(small)
    with locked(out), pytest.raises(OutputError, match="is being written by process"):
        export_model(*given, out)
    monkeypatch.setattr(export, "locked", lambda path: path.write_bytes(b"theirs") and locked(path))
    with pytest.raises(OutputError, match="exists"):
        export_model(*given, out)
    assert out.read_bytes() == b"theirs"


def test_differences_are_told_of_the_largest_value(tmp_path: Path):
    def compared(*values: list[float]) -> float:
        found, want = ({"length": torch.tensor(each), "center": torch.zeros(2)} for each in values)
        return export._compare(tmp_path / "a.pt2", found, want)

    nan = float("nan")
    assert compared([400.02, nan], [400.0, nan]) == pytest.approx(5e-5, rel=0.01)
    assert compared([1e-5, 0.0], [0.0, 0.0]) == pytest.approx(1e-5)
    for wrong in ([0.0, nan], [nan, 0.0]):
        with pytest.raises(OutputError, match="its length would differ"):
            compared(wrong, [nan, nan] if wrong[0] == 0 else [0.0, 0.0])
    with pytest.raises(OutputError, match=r"length would be torch.float32 \(3,\)"):
        compared([0.0] * 3, [0.0] * 2)


def test_logging_is_afterwards_as_it_was_before(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logging.root.manager, "disable", logging.INFO)
    with export._quiet():
        assert logging.root.manager.disable == logging.CRITICAL
    assert logging.root.manager.disable == logging.INFO
