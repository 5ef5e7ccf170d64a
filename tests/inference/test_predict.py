import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import torch
from rasterio import warp
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine
from small_inputs import HEADS, decoding, noise, raster, save

from xt.cli.main import main
from xt.inference import views
from xt.models.checkpoint import load_model

REAL = [
    ("alpha_rgba_jpeg.tif", 3), ("float_nan_nodata.tif", 1), ("landsat7_6band_olinda.tif", 6), ("landsat7_RGB.byte.tif", 3), ("OSBS_029.tif", 3),
    ("naip_4band.tif", 4), ("rgb_internal_mask.tif", 3), ("s1_grd_gcps_no_crs.tif", 1), ("s1_vv_db_nodata-99.tif", 1),
    ("sen1floods11_Spain_S1Hand.tif", 2), ("sen1floods11_Spain_S2Hand_13band.tif", 13), ("odd/all-nodata_71x2475x4.tif", 4),
    ("odd/gdal_byte_nogeoref.tif", 1), ("odd/gdal_float16.tif", 1), ("odd/gdal_sparse_tiled_contig.tif", 3), ("odd/rotated_no_crs.tif", 1),
    ("odd/cogeo_healthy_twin_of_corrupt.tif", 3),
]  # fmt: skip


@pytest.mark.parametrize(("name", "num_bands"), REAL)
def test_real_rasters_give_their_own_grid_and_nodata(shared_data: Path, tmp_path: Path, name: str, num_bands: int):
    path = shared_data / "rasters" / name
    model = save(tmp_path / "model", "semantic-segmentation", num_bands, 512)
    assert main(["predict", str(path), "-m", str(model), "-o", str(tmp_path / "out.tif")]) == 0
    with rasterio.open(path) as a, rasterio.open(tmp_path / "out.tif") as b:
        assert (a.shape, a.transform, a.rpcs) == (b.shape, b.transform, b.rpcs)
        assert (a.crs or a.gcps[1]) == (b.crs or b.gcps[1])
        assert [g.asdict() | {"id": 0} for g in a.gcps[0]] == [g.asdict() | {"id": 0} for g in b.gcps[0]]
        bands = list(range(1, num_bands + 1))
        valid = a.dataset_mask() > 0 if a.dtypes[0] == "uint8" else (a.read_masks(bands) > 0).all(0)
        valid &= np.isfinite(a.read(bands).astype(np.float32)).all(0)
        classes = b.read(1)
        assert b.nodata == 255
    assert np.array_equal(classes == 255, ~valid)


@pytest.mark.parametrize(
    "name",
    [
        "gdal_byte_truncated.tif",
        "gdal_byte_zstd_corrupted.tif",
        "gdal_huge4GB.tif",
        "gdal_tiff_dos_strip_chop.tif",
        "gdal_uint33.tif",
        "gdal_toomanyblocks.tif",
        "gdal_unsupported_codec_unknown.tif",
    ],
)
def test_bad_file_fails_by_name_and_the_others_go_on(
    shared_data: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
):
    good = raster(tmp_path / "good.tif", noise(1, 40, 50))
    model = save(tmp_path / "model", "semantic-segmentation", 1)
    bad = shared_data / "rasters/corrupt" / name
    assert main(["predict", str(bad), str(good), "-m", str(model), "-o", str(tmp_path / "out")]) == 3
    assert name in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["good.report.json", "good.tif"]


def test_bad_tile_can_be_filled(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bad = shared_data / "rasters/corrupt/rasterio_corrupt.tif"
    model = save(tmp_path / "model", "semantic-segmentation", 3)
    argv = ["predict", str(bad), "-m", str(model), "-o", str(tmp_path / "out.tif"), "--tile", "256", "--overlap", "0"]
    assert main(argv) == 3
    assert not list(tmp_path.glob("*.tif"))
    capsys.readouterr()
    assert main([*argv, "--on-bad-tile", "nodata", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert 0 < summary["bad_regions"] < summary["regions"]


@pytest.mark.parametrize("size", [(1, 1), (65, 63), (300, 200)])
def test_blending_leaves_a_constant_as_it_is(tmp_path: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch):
    ones = {name: 0.3 for name in HEADS["point-detection"]}
    flat = decoding(lambda image: {n: torch.full((1, 1, *image.shape[2:]), x) for n, x in ones.items()})
    monkeypatch.setattr(views, "decode", flat)
    image = raster(tmp_path / "a.tif", noise(1, *size))
    model = save(tmp_path / "model", "point-detection", 1, 64)
    assert main(["predict", str(image), "-m", str(model), "-o", str(tmp_path / "o.tif"), "--overlap", "24"]) == 0
    with rasterio.open(tmp_path / "o.tif") as out:
        values = out.read()
        assert out.descriptions == ("center", "vessel", "fishing", "length")
    assert values.shape == (4, *size)
    np.testing.assert_allclose(values[0], 0.3 * 255, rtol=1e-5)
    np.testing.assert_allclose(values[3], 30, rtol=1e-5)


def blob(monkeypatch: pytest.MonkeyPatch, row: int, col: int) -> None:
    """A model that sees one vessel where the image is brightest."""

    def run(image: torch.Tensor) -> dict[str, torch.Tensor]:
        spot = image[:, :1].float()
        peak = torch.nn.functional.avg_pool2d(spot, 5, 1, 2) * 25 / 1000
        return {"center": peak, "vessel": peak * 20 - 1, "fishing": peak - 9, "length": peak * 0 + 0.5}

    monkeypatch.setattr(views, "decode", decoding(run))


@pytest.mark.parametrize("part", [None, "40,30,150,200"])
@pytest.mark.parametrize("kind", ["affine", "gcps", "none"])
def test_points_land_where_the_object_is(tmp_path: Path, kind: str, part: str | None, monkeypatch: pytest.MonkeyPatch):
    """In a part of the scene too, of which rows and columns are those of the scene that is named."""
    array = np.zeros((1, 200, 300), np.float32)
    array[0, 120, 77] = 100_000
    affine = Affine(9.0, 2.0, 500_000.0, -3.0, -8.0, 6_000_000.0)
    options: dict = {"crs": "EPSG:32632", "transform": affine} if kind == "affine" else {}
    if kind == "gcps":
        corners = [(0, 0), (0, 300), (200, 0), (200, 300), (100, 150)]
        options = {"gcps": [GroundControlPoint(r, c, *(affine * (c, r))) for r, c in corners], "crs": "EPSG:32632"}
    image = raster(tmp_path / "scene.tif", array, **options)
    top, left = (0, 0) if part is None else map(int, part.split(",")[:2])
    blob(monkeypatch, 120 - top, 77 - left)
    model = save(tmp_path / "model", "point-detection", 1, 64)
    argv = ["predict", str(image), "-m", str(model), "-o", str(tmp_path / "o.tif")]
    assert main(argv if part is None else [*argv, "--window", part]) == 0
    with (tmp_path / "o.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (float(row["detect_scene_row"]), float(row["detect_scene_column"])) == pytest.approx((120, 77), abs=0.05)
    assert (row["scene_id"], row["is_vessel"], row["is_fishing"]) == ("scene", "True", "False")
    meta, _, geometry, values = pyogrio.raw.read(tmp_path / "o.gpkg")
    at = dict(zip(meta["fields"], values, strict=True))
    assert (at["row"][0], at["column"][0]) == pytest.approx((120, 77), abs=0.05)
    import shapely

    point = shapely.from_wkb(geometry[0])
    want = (77.5 - left, 120.5 - top) if kind == "none" else affine * (77.5, 120.5)
    assert (point.x, point.y) == pytest.approx(want, abs=0.6)
    assert (meta["crs"] is None or "32632" not in meta["crs"]) == (kind == "none")
    (feature,) = json.loads((tmp_path / "o.geojson").read_text())["features"]
    (lon,), (lat,) = (
        ((want[0],), (want[1],)) if kind == "none" else warp.transform("EPSG:32632", "EPSG:4326", *zip(want))
    )
    assert feature["geometry"]["coordinates"] == pytest.approx([lon, lat], abs=0.6 if kind == "none" else 1e-5)
    assert (feature["properties"]["scene_id"], feature["properties"]["is_vessel"]) == ("scene", 1)


def test_scene_folder_is_read_by_band_names(tmp_path: Path):
    scene = tmp_path / "scene"
    scene.mkdir()
    for name in ("b0", "b1"):
        raster(scene / f"{name}.tif", noise(1, 90, 80), nodata=-1)
    model = save(tmp_path / "model", "point-detection", 2)
    assert main(["predict", str(scene), "-m", str(model), "-o", str(tmp_path / "o.tif")]) == 0
    (scene / "b1.tif").unlink()
    assert main(["predict", str(scene), "-m", str(model), "-o", str(tmp_path / "p.tif")]) == 3


def test_classification_gives_a_class_and_scores(tmp_path: Path):
    image = raster(tmp_path / "a.tif", noise(3, 200, 130))
    model = save(tmp_path / "model", "classification", 3)
    assert main(["predict", str(image), "-m", str(model), "-o", str(tmp_path / "o.tif")]) == 0
    answer = json.loads((tmp_path / "o.json").read_text())
    assert sum(answer["scores"].values()) == pytest.approx(1, abs=1e-5)
    assert answer["class"] == max(answer["scores"], key=answer["scores"].get)


def test_cheap_faults_are_found_before_the_model_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    image = raster(tmp_path / "a.tif", noise(1, 20, 20))
    missing_model = ["-m", str(tmp_path / "none")]
    (tmp_path / "old.tif").write_bytes(b"old")
    assert main(["predict", str(image), *missing_model, "-o", str(tmp_path / "old.tif")]) == 2
    assert "exists; --overwrite" in capsys.readouterr().err
    assert main(["predict", str(image), *missing_model, "-o", str(tmp_path / "no/such/o.tif")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert main(["predict", str(image), *missing_model, "-o", str(tmp_path / "o.tif")]) == 2
    assert "give a run folder" in capsys.readouterr().err
    model = save(tmp_path / "model", "semantic-segmentation", 2)
    assert main(["predict", str(image), "-m", str(model), "-o", str(tmp_path / "o.tif")]) == 3
    assert "1 bands, the model takes 2" in capsys.readouterr().err


def test_failure_keeps_the_old_output_and_leaves_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    image = raster(tmp_path / "a.tif", noise(1, 300, 100))
    model = save(tmp_path / "model", "semantic-segmentation", 1, 64)
    out = tmp_path / "out" / "o.tif"
    out.parent.mkdir()
    out.write_bytes(b"old")
    plain = views.encode
    calls: list[int] = []

    def stop(*args: object) -> object:
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return plain(*args)

    monkeypatch.setattr(views, "encode", stop)
    assert main(["predict", str(image), "-m", str(model), "-o", str(out), "--overwrite"]) == 130
    assert out.read_bytes() == b"old"
    assert [p.name for p in out.parent.iterdir()] == ["o.tif"]
    monkeypatch.undo()
    assert main(["predict", str(image), "-m", str(model), "-o", str(out), "--overwrite"]) == 0
    assert out.stat().st_size > 100


def test_changed_input_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    image = raster(tmp_path / "a.tif", noise(1, 100, 100))
    model = save(tmp_path / "model", "semantic-segmentation", 1)
    plain = views.encode

    def touch(*args: object) -> object:
        os.utime(image, (1, 1))
        return plain(*args)

    monkeypatch.setattr(views, "encode", touch)
    assert main(["predict", str(image), "-m", str(model), "-o", str(tmp_path / "o.tif")]) == 3
    assert "has changed while it was read" in capsys.readouterr().err
    assert not (tmp_path / "o.tif").exists()


def test_full_gpu_halves_the_region_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, _ = load_model(save(tmp_path / "model", "semantic-segmentation", 1))
    model.decode_size = 64  # which cannot be halved, and need not
    regions = torch.randn(5, 1, 64, 64)
    with torch.no_grad():
        want = views.encode(model, regions)
        plain = model.region_encoder.forward

        def limited(regions: torch.Tensor) -> list[torch.Tensor]:
            if regions.shape[0] > 1:
                raise torch.cuda.OutOfMemoryError("full")
            return plain(regions)

        monkeypatch.setattr(model.region_encoder, "forward", limited)
        torch.testing.assert_close(views.encode(model, regions), want, atol=1e-5, rtol=1e-5)
        assert model.region_batch == 1
        monkeypatch.setattr(model.region_encoder, "forward", lambda regions: limited(regions.repeat(2, 1, 1, 1)))
        with pytest.raises(torch.OutOfMemoryError):
            views.encode(model, regions)


def test_full_gpu_decodes_smaller_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, _ = load_model(save(tmp_path / "model", "semantic-segmentation", 1))
    model.region_batch, model.decode_size = 1, 1024
    with torch.no_grad():
        pyramid = model.mix(model.encode(torch.randn(1, 1, 640, 640)))
        want = views.decode(model, pyramid)
        plain, most = model.decoder.forward, [500]

        def limited(image: torch.Tensor, *more: Any) -> torch.Tensor:
            if image.shape[-1] > most[0]:
                raise torch.cuda.OutOfMemoryError("full")
            return plain(image, *more)

        monkeypatch.setattr(model.decoder, "forward", limited)
        found = views.decode(model, pyramid)
        assert model.decode_size == 256
        for name, each in want.items():
            torch.testing.assert_close(found[name], each, atol=1e-5, rtol=1e-5)
        most[0] = 0
        with pytest.raises(torch.OutOfMemoryError):
            views.decode(model, pyramid)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB.\nmore"), "the GPU's memory is full (CUDA out of memory. Tried 2 GiB.);"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate 8 bytes"), "memory is full ([enforce fail]"),
        (MemoryError(), "memory is full (no more is to be had);"),
    ],
)  # fmt: skip
def test_full_memory_is_said_in_one_line_and_the_other_images_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, said: str
):
    images = [str(raster(tmp_path / f"{name}.tif", noise(1, 40, 50))) for name in "ab"]
    command = ["predict", *images, "-m", str(save(tmp_path / "model", "semantic-segmentation", 1))]
    plain, errors = views.encode, [error]

    def fails_once(*args: Any) -> Any:
        if errors:
            raise errors.pop()
        return plain(*args)

    monkeypatch.setattr(views, "encode", fails_once)
    assert main([*command, "-o", str(tmp_path / "out")]) == 3
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line.startswith(f"xt: error: {images[0]}: {said}")
    assert line.endswith("and the same command goes on")
    assert (tmp_path / "out/b.tif").exists()
    assert not (tmp_path / "out/a.tif").exists()
    assert main([*command, "-o", str(tmp_path / "out")]) == 0
    errors.append(RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        main([*command, "-o", str(tmp_path / "other")])
