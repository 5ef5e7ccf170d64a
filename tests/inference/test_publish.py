"""A result gets its names when all of it is there; a failure before leaves what stood there, and what is done."""

import os
from pathlib import Path

import pytest
from small_inputs import contents, noise, raster, save

from xt import files
from xt.cli.main import main
from xt.inference import parts, publish, views
from xt.inference import predict as predict_module
from xt.inference.journal import is_publishing
from xt.tasks.classification import ImageClassification


@pytest.mark.parametrize("task", ["point-detection", "classification"])
@pytest.mark.parametrize("stage", ["pixels", "changed", "siblings", "publication"])
def test_failure_at_any_stage_leaves_all_old_files_and_what_is_done(
    tmp_path: Path, task: str, stage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    image, model = raster(tmp_path / "a.tif", noise(1, 40, 50)), save(tmp_path / "model", task, 1)
    out = tmp_path / "out" / "o.tif"
    out.parent.mkdir()
    for suffix in (".tif", ".csv", ".gpkg", ".geojson", ".json"):
        out.with_suffix(suffix).write_text(f"old {suffix}")
    before = contents(out.parent)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    plain = os.replace

    def refuse(source: Path, target: Path) -> None:
        full() if target == out else plain(source, target)

    target = {
        "pixels": (parts, "write_part", full),
        "changed": (predict_module.Source, "_state", iter_states()),
        "siblings": (publish, "write_points", full)
        if task == "point-detection"
        else (ImageClassification, "describe", full),
        "publication": (files.os, "replace", refuse),
    }[stage]
    argv = ["predict", str(image), "-m", str(model), "-o", str(out), "--overwrite"]
    with monkeypatch.context() as patch:
        patch.setattr(*target)
        assert main(argv) == (3 if stage == "changed" else 2)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    after, done = contents(out.parent), out.with_name(".o.tif.job")
    assert {path: what for path, what in after.items() if done not in Path(path).parents} == before
    assert done.exists() == (stage in ("siblings", "publication")) == (f"goes on from what is done, in {done}" in error)
    if done.exists():
        assert not is_publishing(out)
        assert main(argv[:-1]) == 2  # what stands there is as little this run's as before
        monkeypatch.setattr(views, "encode", lambda *args: pytest.fail("done before"))
        assert main(argv) == 0
        assert not done.exists()


def iter_states():
    """States of an image that differ each time."""
    counter = iter(range(100))
    return lambda source: [(next(counter), 0)]


def test_geotiff_gets_its_name_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    image, model = raster(tmp_path / "a.tif", noise(1, 40, 50)), save(tmp_path / "model", "point-detection", 1)
    plain, order, out = os.replace, [], tmp_path / "o.tif"

    def replace(source: Path, target: Path) -> None:
        order.append(Path(target).name)
        assert is_publishing(out) == order[-1].startswith("o.")  # so that a run after a kill knows them as its own
        plain(source, target)

    monkeypatch.setattr(files.os, "replace", replace)
    assert main(["predict", str(image), "-m", str(model), "-o", str(out)]) == 0
    assert [name for name in order if name.startswith("o.")] == [
        "o.csv",
        "o.gpkg",
        "o.geojson",
        "o.report.json",
        "o.tif",
    ]
