"""What ``import xt`` gives."""

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml

import xt
from xt.cli.main import main
from xt.errors import ConfigError, GeometryError, OutputError, PluginError
from xt.inference import session
from xt.inference.options import PredictOptions

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained detector and its scenes."""
    folder = tmp_path_factory.mktemp("public")
    assert main(["synth", "xview3", str(folder / "data"), "--scenes", "3", "--size", "200"]) == 0
    values = yaml.safe_load((ROOT / "configs/xview3_demo.yaml").read_text())
    model = values["model"]["model"]
    model["region_encoder"]["init_args"]["model_args"] = {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
    model["decoder"]["init_args"]["filters"] = [8, 8, 8, 8]
    values["data"]["init_args"] |= {"root": str(folder / "data"), "image_size": 128, "batch_size": 1}
    values["trainer"]["enable_progress_bar"] = False
    (folder / "c.yaml").write_text(yaml.safe_dump(values))
    run = xt.train(str(folder / "c.yaml"), ("--trainer.max_steps", "1", "--run_dir", str(folder / "run")))
    assert run == folder / "run"
    return folder


def test_names_are_imported_when_they_are_used():
    code = (
        "import sys, xt\n"
        "assert set(xt.__all__) <= set(dir(xt))\n"
        "assert not {'torch', 'rasterio', 'lightning'} & set(sys.modules), sys.modules\n"
        "assert xt.RegionGrid(10, 20, 8).cols == 3\n"
        "assert 'torch' not in sys.modules\n"
        "assert callable(xt.register) and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in xt.__all__:
        assert getattr(xt, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = xt.lod


def test_a_prediction_is_read_by_windows_and_written(place: Path, tmp_path: Path):
    scene, out = next((place / "data/test").iterdir()), tmp_path / "s.tif"
    assert main(["predict", str(scene), "-m", str(place / "run"), "-o", str(tmp_path / "cli.tif"), "--tile", "96"]) == 0
    with rasterio.open(tmp_path / "cli.tif") as dataset:
        want, names = dataset.read(), dataset.descriptions
    model = xt.load(place / "run", device="cpu")
    done: list[tuple[int, int]] = []
    with xt.predict(model, scene, tile=96, scratch=tmp_path, progress=lambda *now: done.append(now)) as result:
        assert done[-1] == (16, 16)
        assert len(list(tmp_path.glob("xt-*/prediction.tif"))) == 1
        assert result.shape == (200, 200)
        for name, values in zip(names, want, strict=True):
            np.testing.assert_array_equal(result.read()[name], values)
            np.testing.assert_array_equal(result.read(xt.Window(30, 50, 60, 70))[name], values[30:90, 50:120])
        assert result.objects is not None
        assert len(result.objects) == result.summary.points
        assert result.answer is None
        with pytest.raises(GeometryError, match="is not inside the image of 200 × 200 px"):
            result.read(xt.Window(0, 0, 201, 10))
        assert [path.suffix for path in result.write(out)] == [".csv", ".geojson", ".gpkg", ".json", ".tif"]
        for suffix in (".tif", ".csv"):
            assert out.with_suffix(suffix).read_bytes() == (tmp_path / f"cli{suffix}").read_bytes()
        with pytest.raises(OutputError, match=r"s\.csv exists"):
            result.write(out)
        result.write(out, overwrite=True)
        with pytest.raises(OutputError, match="would replace the input"):
            result.write(scene / "VV_dB.tif", overwrite=True)
        with pytest.raises(ConfigError, match=r"name it \.tif"):
            result.write(tmp_path / "s.png")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "cli.csv",
        "cli.geojson",
        "cli.gpkg",
        "cli.report.json",
        "cli.tif",
        "s.csv",
        "s.geojson",
        "s.gpkg",
        "s.report.json",
        "s.tif",
    ]


def test_the_raster_gets_its_name_last_whatever_lies_beside_it(place: Path, tmp_path: Path):
    scene = next((place / "data/test").iterdir())
    with xt.predict(xt.load(place / "run"), scene, scratch=tmp_path, tile=96) as result:
        raster = next(tmp_path.glob("xt-*/prediction.tif"))
        raster.with_suffix(".txt").write_text("of a task of one's own")
        again = session.Prediction(result.image, raster, result.summary, result._folder)
        assert again.write(tmp_path / "o.tif")[-2:] == [tmp_path / "o.txt", tmp_path / "o.tif"]


def test_example_of_the_readme(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (code,) = re.findall(r"```python\n(import xt\n.*?)```", (ROOT / "README.md").read_text(), re.S)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/xview3_demo").symlink_to(place / "run")
    scene = next((place / "data/test").iterdir())
    (tmp_path / "scene.tif").symlink_to(scene)
    values: dict[str, Any] = {}
    exec(code, values)
    assert values["maps"]["vessel"].shape == (128, 128)
    assert sorted(path.name for path in tmp_path.glob("out.*")) == [
        f"out.{end}" for end in ("csv", "geojson", "gpkg", "report.json", "tif")
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"context": "ful"}, "context is 'ful'; did you mean 'full'?"),
        ({"blend": "cos"}, "blend is 'cos'; did you mean 'cosine'?"),
        ({"tta": "all"}, "tta is 'all'; known: d4, flips, none"),
        ({"precision": "fp16"}, "precision is 'fp16'; did you mean 'bf16'?"),
        ({"tile": 0}, "tile is 0 px; it must be at least 1"),
    ],
)
def test_wrong_words_are_told_of(options: dict[str, Any], said: str, place: Path, tmp_path: Path):
    model, scene = xt.load(place / "run"), next((place / "data/test").iterdir())
    with pytest.raises(ConfigError) as error:
        xt.predict(model, scene, scratch=tmp_path, **options)
    assert str(error.value) == said
    with pytest.raises(ConfigError, match="it must be what"):
        xt.predict(str(place / "run"), scene, scratch=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_option_reaches_the_prediction(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found: list[PredictOptions] = []

    def stop(
        model: object, metadata: object, image: object, out: object, options: PredictOptions, progress: object
    ) -> None:
        found.append(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "predict_image", stop)
    given: dict[str, Any] = {
        "context": "full", "tile": 96, "overlap": 8, "blend": "linear", "tta": "d4", "precision": "bf16", "bands": [2, 1],
        "nodata": -3.0, "aoi": "p.geojson", "mask": "k.tif", "window": (1, 2, 3, 4), "complex_abs": True,
        "fill_bad_tiles": True, "creation": {"COMPRESS": "LZW"},
    }  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        xt.predict(xt.load(place / "run"), "a.tif", scratch=tmp_path, **given)
    want = given | {"bands": (2, 1), "aoi": Path("p.geojson"), "mask": Path("k.tif"), "crop": xt.Window(1, 2, 3, 4)}
    del want["window"]
    assert found == [PredictOptions(**want)]
    assert set(inspect.signature(xt.predict).parameters) == {*given, "model", "image", "scratch", "progress"}


def test_a_window_may_be_four_numbers(place: Path, tmp_path: Path):
    model, scene, at = xt.load(place / "run"), next((place / "data/test").iterdir()), (30, 20, 50, 60)
    with (
        xt.predict(model, scene, window=at, scratch=tmp_path) as numbers,
        xt.predict(model, scene, window=xt.Window(*at), scratch=tmp_path) as window,
    ):
        assert numbers.shape == window.shape == (50, 60)
        whole = xt.Window(0, 0, 50, 60)
        assert np.array_equal(numbers.read(whole)["vessel"], window.read(whole)["vessel"], equal_nan=True)


def test_what_fails_leaves_nothing_in_the_scratch_folder(place: Path, tmp_path: Path):
    model = xt.load(place / "run")
    with pytest.raises(ValueError, match="bands"):
        xt.predict(model, next((place / "data/test").iterdir()) / "VV_dB.tif", scratch=tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(PluginError, match="no module named 'none_such'"):
        xt.load(place / "run", plugins=["none_such"])
    with pytest.raises(ConfigError, match="device tpux"):
        xt.load(place / "run", device="tpux")
