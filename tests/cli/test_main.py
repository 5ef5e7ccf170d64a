import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

from xt.cli.main import COMMANDS, main
from xt.errors import Stopped
from xt.models.checkpoint import save_model
from xt.models.factory import build_from_spec
from xt.models.metadata import ModelMetadata

SLOW_TO_IMPORT = ("torch", "lightning", "timm", "matplotlib", "pyogrio")


def run_light(*argv: str) -> subprocess.CompletedProcess:
    """Run a command in a process that fails if a package that is slow to import was imported."""
    code = (
        "import sys; from xt.cli.main import main; code = main(sys.argv[1:])\n"
        f"slow = [name for name in {SLOW_TO_IMPORT} if name in sys.modules]\n"
        "assert not slow, f'{slow} imported'\nsys.exit(code)"
    )
    return subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)


@pytest.fixture
def raster(tmp_path: Path) -> Path:
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", count=2, height=5, width=7, dtype="float32", nodata=-9) as out:
        out.write(np.ones((2, 5, 7), np.float32))
    return path


def test_help_and_info_import_nothing_slow(raster: Path):
    for argv in (["info", str(raster)], *([name, "--help"] for name in COMMANDS)):
        done = run_light(*argv)
        assert done.returncode == 0, done.stderr
    assert all(name in run_light("--help").stdout for name in COMMANDS)


def test_info_says_size_nodata_and_notes(raster: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["info", str(raster)]) == 0
    out = capsys.readouterr().out
    assert "5 rows × 7 columns, 2 bands, float32" in out
    assert "nodata     -9.0" in out
    assert "no georeference" in out
    assert main(["info", "--json", str(raster)]) == 0
    assert json.loads(capsys.readouterr().out)["width"] == 7


def test_info_names_bands_and_says_what_is_not_applied(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "m.tif"
    profile = {"driver": "GTiff", "count": 4, "height": 8, "width": 9, "dtype": "uint16", "nodata": 0}
    with rasterio.open(path, "w", **profile, photometric="minisblack") as out:
        out.write(np.ones((4, 8, 9), np.uint16))
        out.set_band_description(1, "B02")
        out.set_band_description(3, "B04")
        out.scales = [1e-4] * 4
    assert main(["info", str(path)]) == 0
    told = capsys.readouterr().out
    assert "  bands      1 B02, 2 –, 3 B04, 4 –\n" in told
    assert "  colours    gray, 3 × undefined\n" in told
    assert "scale and offset are in the file and not applied" in told
    assert "to numbers that are learnt or scored they are" in told
    assert main(["info", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["names"], facts["scales"][0], facts["offsets"][0]) == (["B02", None, "B04", None], 1e-4, 0)
    with rasterio.open(path, "r+") as out:
        out.scales = [1] * 4
    assert main(["info", str(path)]) == 0
    assert "not applied" not in capsys.readouterr().out
    with rasterio.open(path, "r+") as out:
        out.offsets = [0, -1000, 0, 0]
    assert main(["info", str(path)]) == 0
    assert "not applied" in capsys.readouterr().out


def test_info_tells_a_model(raster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    part = {
        "name": "convnext_atto",
        "in_chans": 2,
        "region_size": 64,
        "model_args": {"dims": [8] * 4, "depths": [1] * 4},
    }
    spec = {
        "region_encoder": {"class_path": "TimmFeatures", "init_args": part},
        "context": {"class_path": "Mamba"},
        "context_dim": 16,
        "decoder": {"class_path": "UNet", "init_args": {"filters": [8] * 4}},
        "heads": {"value": 2},
    }
    settings = {"targets": ["height", "slope"], "target_mean": [10.0, 0.125], "limits": [0.5, None]}
    metadata = ModelMetadata("regression", ("VV", "VH"), (1.25, 2.0), (3.0, 4.0), image_size=128, settings=settings)
    save_model(tmp_path / "run/model", build_from_spec(spec), metadata)
    assert main(["info", str(tmp_path / "run"), str(raster)]) == 0
    out = capsys.readouterr().out
    for name, text in (
        ("task", "regression"), ("bands", "VV, VH"), ("mean", "1.25, 2"), ("regions", "TimmFeatures convnext_atto, 64 px"),
        ("context", "Mamba of 16 channels"), ("trained on", "128 × 128 px"), ("targets", "height, slope"),
        ("target_mean", "10, 0.125"), ("limits", "0.5, none"),
    ):  # fmt: skip
        assert f"  {name:<12}{text}\n" in out
    assert "5 rows × 7 columns" in out
    assert "classes" not in out
    assert main(["info", "--json", str(tmp_path / "run/model")]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert ModelMetadata.from_dict(facts["metadata"]) == metadata
    assert facts["model"]["heads"] == {"value": 2}
    (tmp_path / "empty").mkdir()
    assert main(["info", str(tmp_path / "empty")]) == 3
    assert "empty: no run or model (no model/ folder in it yet), and no scene (no BAND.tif)" in capsys.readouterr().err
    config = tmp_path / "run/model/config.json"
    for left_out, code in (("context_dim", 0), ("decoder", 3)):  # an older model, and a broken one
        content = json.loads(config.read_text())
        del content["model"][left_out]
        config.write_text(json.dumps(content))
        assert main(["info", str(tmp_path / "run"), str(raster)]) == code
    told = capsys.readouterr()
    assert "  context     Mamba\n" in told.out
    assert told.err == "xt: error: model description has no decoder; export the model again\n"


def test_a_scene_folder_is_described_band_by_band(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    scene = tmp_path / "scene"
    scene.mkdir()
    profile = {"driver": "GTiff", "count": 1, "dtype": "float32"}
    at = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    for name, shape, more in (
        ("VV", (30, 20), {"nodata": -9, **at}), ("depth", (3, 2), {**at, "transform": at["transform"] * rasterio.Affine.scale(10)}),
        ("wind", (3, 2), {"crs": "EPSG:4326", "transform": rasterio.Affine(0.5, 0, 3, 0, -0.5, 4)}), ("raw", (1, 2), {}),
    ):  # fmt: skip
        with rasterio.open(scene / f"{name}.tif", "w", height=shape[0], width=shape[1], **profile, **more) as out:
            out.write(np.ones((1, *shape), np.float32))
    assert main(["info", str(scene)]) == 0
    out = capsys.readouterr().out
    for name, text in (
        ("VV", "30 × 20, float32, pixels of 10 m, nodata -9"), ("depth", "3 × 2, float32, pixels of 100 m, no nodata value"),
        ("wind", "3 × 2, float32, pixels of 0.5 degrees, no nodata value"), ("raw", "1 × 2, float32, no nodata value"),
        ("CRS", "WGS 84 / UTM zone 32N"), ("CRS", "WGS 84"), ("note", "no georeference: results are in pixels"),
    ):  # fmt: skip
        assert f"  {name:<11}{text}\n" in out
    assert main(["info", "--json", str(scene)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {name: (band["height"], band["nodata"]) for name, band in facts["bands"].items()} == {
        "VV": (30, -9), "depth": (3, None), "raw": (1, None), "wind": (3, None),
    }  # fmt: skip
    (scene / "depth.tif").write_bytes(b"II*\0garbage")
    assert main(["info", str(scene)]) == 3
    assert "depth.tif" in capsys.readouterr().err


def test_one_bad_file_does_not_spoil_the_others(raster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"II*\0garbage")
    assert main(["info", str(bad), str(raster)]) == 3
    captured = capsys.readouterr()
    assert "5 rows" in captured.out
    assert "bad.tif" in captured.err
    assert captured.err.count("\n") == 1


def test_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]):
    assert main(["trian"]) == 2
    assert "did you mean 'train'" in capsys.readouterr().err


def test_error_is_one_line_and_v_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    argv = ["score", str(tmp_path / "p.csv"), str(tmp_path / "l.csv")]
    assert main(argv) == 2
    assert capsys.readouterr().err == f"xt: error: {tmp_path}/p.csv: no such file\n"
    with pytest.raises(ValueError, match="no such file"):
        main(["-v", *argv])


def test_doctor_runs(capsys: pytest.CaptureFixture[str]):
    assert main(["doctor", "--json"]) in (0, 3)
    assert "torch" in json.loads(capsys.readouterr().out)["facts"]


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        (
            "xt.inference.session",
            {"lightning", "torchmetrics", "torchvision", "scipy.signal", "matplotlib", "tensorboard"},
        ),
        ("xt.analysis.report, xt.analysis.map_scores", {"torch", "scipy.signal"}),
        (
            "xt.data.scene_crops, xt.data.pair_crops, xt.data.image_crops, xt.data.scene_tokens",
            {"lightning"},
        ),  # loader processes
    ],
)
def test_nothing_slow_is_imported_that_is_not_needed(modules: str, heavy: set[str]):
    code = f"import sys, {modules}; print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.split())


def test_full_memory_is_one_line_and_bugs_are_tracebacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for error, said in (
        (MemoryError("Unable to allocate 8 GiB"), "xt: error: memory is full (Unable to allocate 8 GiB); take less"),
        (
            type("OutOfMemoryError", (RuntimeError,), {})("CUDA\nmore"),
            "xt: error: the GPU's memory is full (CUDA); take",
        ),
        (RuntimeError("a bug"), None),
    ):

        def run(args: object, error: Exception = error) -> int:
            raise error

        monkeypatch.setattr("xt.cli.doctor.run", run)
        if said is None:
            with pytest.raises(RuntimeError, match="a bug"):
                main(["doctor"])
            continue
        assert main(["doctor"]) == 3
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(said)
        with pytest.raises(type(error)):
            main(["doctor", "-v"])


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "xt: interrupted\n"),
        (Stopped(signal.SIGINT), 130, "xt: interrupted\n"),
        (Stopped(signal.SIGTERM), 143, "xt: terminated\n"),
        (BrokenPipeError(), 143, ""),
    ],
)
def test_what_stops_a_command_is_told_by_its_exit_code(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch
):
    class Told(io.StringIO):
        def close(self) -> None:
            """Leave it to be read."""

    def run(args: object) -> int:
        raise error

    told = Told()
    monkeypatch.setattr("xt.cli.doctor.run", run)
    monkeypatch.setattr("sys.stderr", told)
    for rank in "10":  # of processes that work together the first says it
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert main(["doctor"]) == code
        assert told.getvalue() == (said if rank == "0" else "")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["predict", "a.tif", "-m", "run"], "required: -o/--output; xt predict --help"),
        (
            ["vectorize", "a.tif", "-o", "b.gpkg", "--min-area", "20m2"],
            "invalid float value: '20m2'; xt vectorize --help",
        ),
        (["predict", "", "-m", "run", "-o", "o.tif"], "argument IMAGE: is empty; name a file or folder"),
        (["info", ""], "is empty; name a file or folder"),
        (["doctor", "--jason"], "unrecognized arguments: --jason; xt doctor --help"),
    ],
)
def test_wrong_usage_is_one_line(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert main(argv) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("xt: error: ")
    assert said in told.err
    assert told.err.count("\n") == 1


def test_scores_that_the_labels_do_not_tell_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "found.csv").write_text(
        "detect_scene_row,detect_scene_column,scene_id,is_vessel,is_fishing,vessel_length_m\n1,2,a,,,\n"
    )
    (tmp_path / "there.csv").write_text("scene_id,row,column,is_vessel\na,1,2,True\n")
    assert main(["score", str(tmp_path / "found.csv"), str(tmp_path / "there.csv")]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "loc_fscore_shore is 0 without --shoreline DIR",
        "fishing_fscore is 0: the labels do not tell it",
        "length_acc is 0: the labels do not tell it",
    ]
