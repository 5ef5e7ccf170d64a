"""Tiles that cannot be read, models that give NaN, class numbers, and images that stop no others."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from small_inputs import HEADS, decoding, noise, raster, save

from xt.cli.main import main
from xt.errors import InputError
from xt.inference import engine, reader, views
from xt.models.metadata import ModelMetadata
from xt.tasks.registry import task_of


@pytest.mark.parametrize("overlap", ["0", "48"])
def test_a_tile_that_cannot_be_read_does_not_fade_its_neighbours(
    tmp_path: Path, overlap: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    flat = decoding(lambda image: {n: torch.full((1, 1, *image.shape[2:]), 0.3) for n in HEADS["point-detection"]})
    monkeypatch.setattr(views, "decode", flat)
    plain = engine.Source.read

    def read(self: object, window: object, *more: object) -> object:
        if window.row == 0 and window.col == 0:
            raise InputError("a bad tile")
        return plain(self, window, *more)

    monkeypatch.setattr(engine.Source, "read", read)
    image = raster(tmp_path / "a.tif", noise(1, 256, 256))
    model = save(tmp_path / "model", "point-detection", 1, 128)
    argv = ["predict", str(image), "-m", str(model), "-o", str(tmp_path / "o.tif"), "--overlap", overlap]
    assert main([*argv, "--on-bad-tile", "nodata", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["regions"], told["bad_regions"], told["empty_regions"]) == (16, 1, 0)
    with rasterio.open(tmp_path / "o.tif") as out:
        center = out.read(1)
    known = np.isfinite(center)
    assert known[64:].all()
    assert known[:, 64:].all()
    assert not known[:64, :64].any()
    np.testing.assert_allclose(center[known], 0.3 * 255, rtol=1e-5)


def test_of_strips_a_row_of_regions_is_bad_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reader, "CACHED", 0)
    monkeypatch.setattr(reader, "SLICE", 20 * 256 * 4)  # 20 rows at a time
    plain = engine.Source.read

    def read(self: object, window: object, *more: object) -> object:
        if window.row <= 110 < window.row_stop:
            raise InputError("a bad strip")
        return plain(self, window, *more)

    monkeypatch.setattr(engine.Source, "read", read)
    image = raster(tmp_path / "a.tif", noise(1, 256, 256), blockysize=1)
    model = save(tmp_path / "model", "point-detection", 1, 128)
    argv = ["predict", str(image), "-m", str(model), "-o", str(tmp_path / "o.tif")]
    assert main(argv) == 3
    assert main([*argv, "--on-bad-tile", "nodata"]) == 0
    with rasterio.open(tmp_path / "o.tif") as out:
        known = np.isfinite(out.read(1))
    assert not known[64:128].any()
    assert known[:64].all()
    assert known[128:].all()
    assert json.loads((tmp_path / "o.report.json").read_text())["result"]["bad_regions"] == 4


def test_an_image_without_a_readable_tile_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def read(*arguments: object) -> object:
        raise InputError("a bad tile")

    monkeypatch.setattr(engine.Source, "read", read)
    image = raster(tmp_path / "a.tif", noise(1, 256, 256))
    model = save(tmp_path / "model", "semantic-segmentation", 1, 128)
    argv = ["predict", str(image), "-m", str(model), "-o", str(tmp_path / "o.tif"), "--on-bad-tile", "nodata"]
    assert main(argv) == 3
    assert "none of its 16 regions can be read" in capsys.readouterr().err
    assert not (tmp_path / "o.tif").exists()


@pytest.mark.parametrize("task", HEADS)
def test_a_model_that_gives_nan_fails_by_name(
    tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    plain = views.decode

    def broken(*arguments: object) -> object:
        maps = plain(*arguments)
        return {name: values + float("nan") for name, values in maps.items()}

    monkeypatch.setattr(views, "decode", broken)
    image = raster(tmp_path / "a.tif", noise(1, 100, 100))
    model = save(tmp_path / "model", task, 1)
    assert main(["predict", str(image), "-m", str(model), "-o", str(tmp_path / "o.tif")]) == 3
    assert "a.tif: the model gives NaN or infinity at rows 0–99, columns 0–99" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "model"]


def test_nan_where_nothing_is_valid_is_nobodys_business(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain = views.decode

    def broken(*arguments: object) -> object:
        maps = plain(*arguments)
        for values in maps.values():
            values[..., :10, :] = float("nan")
        return maps

    monkeypatch.setattr(views, "decode", broken)
    pixels = noise(1, 100, 100)
    pixels[:, :10] = -1
    image = raster(tmp_path / "a.tif", pixels, nodata=-1)
    model = save(tmp_path / "model", "point-detection", 1)
    assert main(["predict", str(image), "-m", str(model), "-o", str(tmp_path / "o.tif")]) == 0
    with rasterio.open(tmp_path / "o.tif") as out:
        found = np.isnan(out.read())
    assert found[:, :10].all()
    assert not found[:, 10:].any()


@pytest.mark.parametrize(("num", "dtype"), [(255, "uint8"), (256, "uint16")])
def test_no_class_has_the_number_of_nodata(num: int, dtype: str):
    metadata = ModelMetadata("semantic-segmentation", ("b",), (0.0,), (1.0,), classes=tuple(map(str, range(num))))
    product = task_of(metadata).product
    assert (product.names, product.dtype, product.nodata) == (("class",), dtype, float(np.iinfo(dtype).max))
    assert num - 1 < np.iinfo(dtype).max


def test_one_image_that_cannot_be_done_stops_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    images = [raster(tmp_path / f"{name}.tif", noise(1, 70, 70)) for name in "ab"]
    model = save(tmp_path / "model", "point-detection", 1)
    out = tmp_path / "out"
    argv = ["predict", str(tmp_path / "none.tif"), *map(str, images), "-m", str(model), "-o", str(out)]
    assert main(argv) == 3
    assert capsys.readouterr().err.count("none.tif") == 1
    assert (out / "b.tif").exists()
    for name in ("b.tif", "b.csv", "b.gpkg", "b.geojson", "b.report.json"):
        (out / name).unlink()
    before = (out / "a.tif").stat().st_mtime_ns
    assert main(argv) == 3
    assert "a.tif" not in capsys.readouterr().err  # it is done
    assert (out / "b.tif").exists()
    assert (out / "a.tif").stat().st_mtime_ns == before
    (out / "a.tif").unlink()  # its siblings stay
    assert main(argv) == 3
    assert "a.csv exists; --overwrite" in capsys.readouterr().err
    assert not (out / "a.tif").exists()
