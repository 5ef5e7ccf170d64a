"""``xt vectorize``: what is refused, and what stops half way."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio.control import GroundControlPoint
from small_inputs import raster, save
from small_maps import UTM, classes, named

import xt
from xt.cli.main import main
from xt.errors import ConfigError, InputError, OutputError
from xt.inference import vectorize as module
from xt.inference.engine import Scene


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str]:
    code = main(["vectorize", *map(str, argv)])
    error = capsys.readouterr().err
    assert error.startswith("xt: error: ")
    assert error.count("\n") == 1
    return code, error


def test_what_cannot_be_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path, out = named(tmp_path / "a.tif", classes(), **UTM), tmp_path / "o.gpkg"
    floats, many = (
        raster(tmp_path / "f.tif", np.ones((1, 4, 4), np.float32)),
        raster(tmp_path / "m.tif", np.ones((2, 4, 4), np.uint8)),
    )
    wide = raster(tmp_path / "w.tif", np.ones((1, 4, 4), np.uint64))
    (tmp_path / "old.gpkg").write_text("mine")
    (tmp_path / "link.gpkg").symlink_to("a.tif")
    (tmp_path / "b.gpkg").write_bytes(path.read_bytes())
    before = {each: each.read_bytes() for each in tmp_path.iterdir()}
    cases: list[tuple[list[object], int, str]] = [
        ([path, "-o", tmp_path / "o.shp"], 2, "name it .gpkg or .geojson"),
        ([path, "-o", tmp_path / "old.gpkg"], 2, "exists; --overwrite"),
        ([path, "-o", tmp_path / "link.gpkg", "--overwrite"], 2, "would replace the input"),
        ([tmp_path / "b.gpkg", "-o", tmp_path / "b.gpkg", "--overwrite"], 2, "would replace the input"),
        ([path, "-o", tmp_path / "no/o.gpkg"], 2, "there is no folder"),
        ([tmp_path / "none.tif", "-o", out], 3, "none.tif: no such file"),
        ([tmp_path, "-o", out], 3, ": is a folder; give a raster"),
        ([floats, "-o", out], 3, "float32 samples; polygons are made of whole numbers"),
        ([wide, "-o", out], 3, "uint64 samples; polygons are made of whole numbers up to int64"),
        ([many, "-o", out], 3, "2 bands; choose the one with classes by --band"),
        ([path, "-o", out, "--band", "2"], 3, "no band 2; it has 1"),
        ([path, "-o", out, "--min-area", "-1"], 2, "min_area is -1.0; it must be at least 0"),
        ([path, "-o", out, "--classes", "99999999999999999999"], 2, "no class '99999999999999999999'"),
    ]
    for argv, code, reason in cases:
        got, error = refused(capsys, *argv)
        assert (got, reason in error) == (code, True), error
        assert {each: each.read_bytes() for each in tmp_path.iterdir()} == before


def test_control_points_that_tell_no_place_are_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    line = [GroundControlPoint(i, i, 500_000 + i, 6_000_000 - i) for i in range(0, 9, 2)]
    path = raster(tmp_path / "a.tif", np.ones((2, 9, 9), np.float32), gcps=line, crs="EPSG:32632")
    told = "a.tif: its 5 ground control points give no place on the map (they lie on one line)"
    model = save(tmp_path / "m", "point-detection", 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scene, "run", None)  # before any work
        assert main(["predict", str(path), "-m", str(model), "-o", str(tmp_path / "o.tif")]) == 3
    assert told in capsys.readouterr().err
    path = raster(tmp_path / "a.tif", np.ones((1, 9, 9), np.uint8), gcps=line, crs="EPSG:32632")
    assert told in refused(capsys, path, "-o", tmp_path / "o.gpkg")[1]
    assert not list(tmp_path.glob("o.*"))


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson"])
@pytest.mark.parametrize(
    "stop", [KeyboardInterrupt(), OSError(28, "No space left on device"), InputError("x: changed")]
)
@pytest.mark.usefixtures("small_steps")
def test_what_stops_half_way_leaves_the_old_file(
    tmp_path: Path, suffix: str, stop: BaseException, monkeypatch: pytest.MonkeyPatch
):
    path, out = raster(tmp_path / "a.tif", classes()[None]), tmp_path / f"o{suffix}"
    out.write_text("old")
    plain, calls = module.write_layer, []

    def write(*args: Any, **more: Any) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise stop
        plain(*args, **more)

    monkeypatch.setattr(module, "write_layer", write)
    code = main(["vectorize", str(path), "-o", str(out), "--overwrite"])
    assert code == {KeyboardInterrupt: 130, OSError: 2, InputError: 3}[type(stop)]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.tif", out.name]
    assert out.read_text() == "old"


def test_a_map_that_changes_is_an_error(tmp_path: Path):
    path = raster(tmp_path / "a.tif", classes()[None])
    with pytest.raises(InputError, match=r"a\.tif: has changed while it was read"):
        xt.vectorize(path, tmp_path / "o.gpkg", progress=lambda done, total: os.utime(path, (1, 1)))
    assert not (tmp_path / "o.gpkg").exists()


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path):
    path, out = raster(tmp_path / "a.tif", classes()[None]), tmp_path / "o.gpkg"
    with pytest.raises(OutputError, match="exists"):
        xt.vectorize(path, out, progress=lambda done, total: out.write_text("mine"))
    assert out.read_text() == "mine"


def test_a_bad_map_leaves_nothing(shared_data: Path, tmp_path: Path):
    with pytest.raises(InputError, match="gdal_byte_truncated"):
        xt.vectorize(shared_data / "rasters/corrupt/gdal_byte_truncated.tif", tmp_path / "o.gpkg")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError):
        xt.vectorize(tmp_path / "a.tif", tmp_path / "o.csv")
