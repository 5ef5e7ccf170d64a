import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from map_files import layer, save
from PIL import Image

from xt.analysis import map_pictures
from xt.analysis.map_truth import TruthOptions
from xt.cli.main import main
from xt.errors import InputError


def run_folder(path: Path) -> Path:
    path.mkdir()
    (path / "metrics.csv").write_text("step,name,value\n1,train/loss,0.5\n2,train/loss,0.4\n")
    (path / "test.json").write_text(json.dumps({"test/iou": 0.5}))
    return path


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Figures as they were saved."""
    saved: list[Any] = []
    save = map_pictures.save
    monkeypatch.setattr(map_pictures, "save", lambda figure, out: (saved.append(figure), save(figure, out)))
    return saved


def raster(path: Path, pixels: np.ndarray, names: Sequence[str] = (), **options: Any) -> str:
    bands = pixels if pixels.ndim == 3 else pixels[None]
    size = dict(zip(("count", "height", "width"), bands.shape, strict=True))
    with rasterio.open(path, "w", driver="GTiff", dtype=pixels.dtype, **size, **options) as out:
        out.write(bands)
        if names:  # as xt predict does
            out.write_colormap(1, {number: (number, 9, 9, 255) for number in range(len(names))})
        out.update_tags(1, **{f"CLASS_{number}": name for number, name in enumerate(names)})
    return str(path)


def test_maps_beside_what_is_true(tmp_path: Path, figures: list[Any], capsys: pytest.CaptureFixture[str]):
    run = run_folder(tmp_path / "run")
    true, said = np.tile(np.array([0, 1, 2, 1], np.uint8), (3, 1)), np.tile(np.array([0, 1, 1, 255], np.uint8), (3, 1))
    photo = tmp_path / "photo"  # a folder of bands
    photo.mkdir()
    raster(photo / "VV_dB.tif", np.arange(36, dtype=np.uint8).reshape(3, 3, 4))
    said_path = raster(tmp_path / "map.tif", said, ["sea", "ship", "cloud"], nodata=255)
    argv = ["report", str(run), "-o", str(tmp_path / "out"), "--scene", str(photo), "--maps", said_path, "--labels"]
    assert main([*argv, raster(tmp_path / "true.tif", true), "--ignore", "2"]) == 0
    assert str(tmp_path / "out/maps.png") in capsys.readouterr().out
    (run / "test.json").unlink()
    assert main([*argv, str(tmp_path / "true.tif"), "--ignore", "2"]) == 0
    told = capsys.readouterr()
    assert f"run xt eval {run} --split test first; its scores are left out" in told.err
    assert told.out.splitlines() == [str(tmp_path / "out" / name) for name in ("losses.png", "maps.png")]
    assert np.asarray(Image.open(tmp_path / "out/maps.png").convert("L")).std() > 10
    image, there, found = figures[-1].axes
    assert image.get_title() == "photo"
    assert image.images[0].get_array().shape == (3, 4, 4)
    assert there.images[0].get_array().filled(9).tolist() == [[0, 1, 9, 1]] * 3
    assert found.images[0].get_array().filled(9).tolist() == [[0, 1, 1, 9]] * 3
    assert [text.get_text() for text in there.get_legend().get_texts()] == ["sea", "ship", "cloud"]
    assert there.images[0].get_clim() == found.images[0].get_clim() == (-0.5, 2.5)
    assert found.get_title() == "predicted: iou 1.000, f1 1.000"
    colors = np.where(true[None] == 1, np.array([0, 255, 0])[:, None, None], 3).astype(np.uint8)
    assert main([*argv, raster(tmp_path / "colours.tif", colors), "--colors", "0,255,0", "9,9,9"]) == 0
    assert figures[-1].axes[1].images[0].get_array().tolist() == [[0, 1, 0, 1]] * 3
    assert figures[-1].axes[2].get_title().startswith("predicted: iou 0.500")


def test_maps_of_numbers_share_their_greys(tmp_path: Path, figures: list[Any]):
    true = np.linspace(5, 9, 12, dtype=np.float32).reshape(3, 4)
    paths = [raster(tmp_path / f"{name}.tif", true + more) for name, more in (("image", 0), ("map", 1), ("true", 0))]
    map_pictures.plot_maps([("one", Path(paths[0]), Path(paths[1]), Path(paths[2]))], tmp_path / "a.png")
    _, there, found, _ = figures[-1].axes
    assert there.images[0].get_clim() == found.images[0].get_clim() == pytest.approx((5.04, 8.96), abs=0.01)
    assert (figures[-1].axes[0].get_title(), "rmse 1.000" in found.get_title()) == ("one", True)
    counts = raster(tmp_path / "counts.tif", np.round(100 * true).astype(np.int16))
    with rasterio.open(counts, "r+") as dataset:
        dataset.scales, dataset.offsets = (0.01,), (0.0,)
    map_pictures.plot_maps([("one", Path(paths[0]), Path(paths[1]), Path(counts))], tmp_path / "a.png")
    np.testing.assert_allclose(figures[-1].axes[1].images[0].get_array(), true, atol=0.006)
    other = raster(tmp_path / "other.tif", np.zeros((3, 5), np.float32))
    with pytest.raises(InputError, match=r"map\.tif: 3 × 4 px, .*other\.tif has 3 × 5; they must be on one grid"):
        map_pictures.plot_maps([("one", Path(other), Path(paths[1]), Path(paths[2]))], tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--maps", "m.tif"], "belong together"),
        (["--scene", "a.tif", "--labels", "l.tif"], "belong together"),
        (["--scene", "a.tif", "b.tif", "--maps", "m.tif", "n.tif", "--labels", "l.tif"], "--labels has 1, --scene 2"),
        (["--scene", "a.tif", "--maps", "m.tif", "n.tif", "--labels", "l.tif"], "--maps has 2, --scene 1"),
        (["--scene", "a.tif", "--maps", "m.tif", "--points", "p.csv", "--labels", "l.tif"], "of different tasks"),
        (["--scene", "a.tif", "--points", "p.csv", "--labels", "l.csv", "k.csv"], "--labels has 2 tables"),
        (["--ignore", "0"], "--ignore is of --maps"),
        (["--colors", "1,2,3"], "--colors is of --maps"),
        (["--areas", "a.gpkg"], "--areas is of --maps"),
        (["--unclear", "fog"], "--unclear is of --maps"),
        (["--no-background"], "--no-background is of --maps"),
        (["--scene", "a.tif", "--points", "p.csv"], "belong together"),
        (["--labels", "l.gpkg"], "l.gpkg: give --scene, the images on which these points lie"),
    ],
)
def test_options_that_do_not_fit_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
):
    assert main(["report", str(run_folder(tmp_path / "run")), "-o", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_polygons_of_several_maps(tmp_path: Path, figures: list[Any]):
    run, maps = run_folder(tmp_path / "run"), []
    for number, name in enumerate("ab"):
        said = np.zeros((3, 4), np.uint8)
        said[:, : 1 + number] = 1
        save(tmp_path / f"{name}.tif", said, ["sea", "ship"])
        maps.append(str(tmp_path / f"{name}.tif"))
    photo = str(save(tmp_path / "photo.tif", np.arange(12, dtype=np.float32).reshape(3, 4)))
    labels = layer(tmp_path / "labels.gpkg", [shapely.box(0, 0, 1, 3), shapely.box(3, 0, 4, 3)])
    areas = layer(tmp_path / "areas.gpkg", [shapely.box(0, 0, 3, 3)])
    argv = ["report", str(run), "-o", str(tmp_path / "out"), "--scene", photo, photo, "--maps", *maps]
    assert main([*argv, "--labels", str(labels), "--areas", str(areas)]) == 0
    shown = figures[-1].axes
    assert [shown[at].images[0].get_array().filled(9).tolist()[0] for at in (1, 4)] == [[1, 0, 0, 9]] * 2
    assert [shown[at].get_title() for at in (2, 5)] == [
        "predicted: iou 1.000, f1 1.000",
        "predicted: iou 0.500, f1 0.667",
    ]
    true = np.arange(12, dtype=np.float32).reshape(3, 4)
    numbers = save(tmp_path / "numbers.tif", true)
    map_pictures.plot_maps([("one", numbers, numbers, numbers)], tmp_path / "b.png", TruthOptions(areas=areas))
    assert figures[-1].axes[1].images[0].get_array().filled(-1).tolist()[0] == [0, 1, 2, -1]


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_an_image_is_drawn_in_its_colours_without_what_is_missing(tmp_path: Path, figures: list[Any], bands: int):
    pixels = np.stack([np.linspace(low, low + 50, 6, dtype=np.float32).reshape(2, 3) for low in (0, 100, 200, 300)])
    pixels[:, 0, 0] = -9
    image = raster(tmp_path / "image.tif", pixels[:bands], nodata=-9)
    said = raster(tmp_path / "map.tif", np.zeros((2, 3), np.uint8))
    map_pictures.plot_maps([("one", Path(image), Path(said), Path(said))], tmp_path / "a.png")
    red, green, blue, alpha = np.moveaxis(figures[-1].axes[0].images[0].get_array(), -1, 0)
    assert alpha.tolist() == [[0, 1, 1], [1, 1, 1]]
    assert (red[0, 1], blue[1, 2]) == (0, 1)
    assert (green[1, 1] > red[1, 1]) == (blue[1, 1] > green[1, 1]) == (bands >= 3)
