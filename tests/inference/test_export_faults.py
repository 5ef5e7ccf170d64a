"""Files that would not give what the model gives are not written, and what is wrong is one line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_inputs import save
from torch import Tensor

from xt.cli.main import main
from xt.errors import ModelError, OutputError
from xt.inference import export
from xt.inference.export import export_model
from xt.models.checkpoint import load_model


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(
        tmp_path_factory.mktemp("small") / "model", "classification", 2, image_size=64, context="Hyper", head_dim=8
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda found: found | {"scores": found["scores"] + 3e-4},
            "its scores would differ from the model's by 0.0003",
        ),
        (
            lambda found: found | {"scores": found["scores"] * torch.nan},
            "its scores would differ from the model's by inf",
        ),
        (lambda found: found | {"class": found["class"] + 1}, "its class would differ from the model's by 1 "),
        (lambda found: found | {"class": found["class"].long()}, r"class would be torch.int64 \(1,\)"),
    ],
)
def test_a_file_that_gives_something_else_is_not_written(
    change: Any, said: str, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model, metadata = load_model(small)

    def write(program: object, path: Path, told: object, given: Tensor, names: list[str]) -> dict[str, Tensor]:
        path.write_bytes(b"1")
        return change(export.ExportedModel(model, metadata, (64, 64))(given))

    monkeypatch.setitem(export._WRITERS, "pt2", write)
    monkeypatch.setattr(export, "_traced", lambda *given: None)
    monkeypatch.setattr(export, "_check_graph", lambda *given: None)
    out = tmp_path / "a.pt2"
    out.write_bytes(b"old")
    with pytest.raises(OutputError, match=said):
        export_model(model, metadata, out, overwrite=True)
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"old"]


def test_what_a_converter_says_is_one_line(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*given: object) -> None:
        raise RuntimeError("no such operator\nat length")

    monkeypatch.setitem(export._WRITERS, "pt2", fail)
    monkeypatch.setattr(export, "_traced", lambda *given: None)
    monkeypatch.setattr(export, "_check_graph", lambda *given: None)
    with pytest.raises(ModelError, match=r"^the model cannot be written as \.pt2: no such operator; try \.onnx$"):
        export_model(*load_model(small), tmp_path / "a.pt2")
    assert list(tmp_path.iterdir()) == []


def test_options_that_are_wrong_are_one_line(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def refused(*argv: str) -> str:
        assert main(["export", str(small), *argv]) == 2
        return capsys.readouterr().err.splitlines()[-1]

    there = tmp_path / "a.pt2"
    there.touch()
    assert "a.pt2 exists" in refused("-o", str(there))
    assert f"there is no folder {tmp_path / 'none'}; make it first" in refused("-o", str(tmp_path / "none/b.pt2"))
    with pytest.raises(OutputError, match="there is no folder"):
        export_model(*load_model(small), tmp_path / "none/b.pt2")
    assert "name it .pt2 or .onnx" in refused("-o", str(tmp_path / "a.pth"))
    assert "name it .onnx" in refused("-o", str(tmp_path / "b.pt2"), "--format", "onnx")
    assert "'12' is not a height and a width" in refused("-o", str(there), "--size", "12")
    assert "'0' is neither a number of images nor any" in refused("-o", str(there), "--batch", "0")
    monkeypatch.setattr(export, "LIMIT", 1000)
    assert "an ONNX file ends at 2 GB" in refused("-o", str(tmp_path / "a.onnx"))
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    assert "onnx is not installed; pip install 'xt[onnx]'" in refused("-o", str(tmp_path / "a.onnx"))
    assert there.read_bytes() == b""


def test_the_model_itself_stays_as_it_was(small: Path, tmp_path: Path):
    model, metadata = load_model(small)
    before = model.spec()
    export_model(model, metadata, tmp_path / "a.pt2")
    assert model.spec() == before
    assert str(Path(__file__).parents[2]).encode() not in (tmp_path / "a.pt2").read_bytes()  # in traces of its graph
    with pytest.raises(ModelError, match="cannot be exported: it draws random numbers"):
        export_model(model.train(), metadata, tmp_path / "b.pt2")
