"""A class of photos is asked of the whole, resized as in training, whatever their size and form."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from small_inputs import save

import xt
from xt.cli.main import main
from xt.data.image_folder import ImageFolderData
from xt.data.photos import RESIZED, Photo
from xt.errors import ConfigError, InputError, XTWarning
from xt.models.checkpoint import load_model, save_model

SIZE = 128
NAMES = ("wide.png", "high.jpg", "small.png", "grey.png", "palette.png", "alpha.png", "odd.webp")


def picture(name: str, height: int, width: int, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(len(name))
    coarse = Image.fromarray(rng.integers(0, 255, (9, 9, 3)).astype(np.uint8))
    image = coarse.resize((width, height), Image.Resampling.BICUBIC)
    if mode == "RGBA":
        image.putalpha(100)
    return image if mode == "RGBA" else image.convert(mode)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    modes = {"grey.png": "L", "palette.png": "P", "alpha.png": "RGBA"}
    sizes = {"wide.png": (300, 700), "high.jpg": (500, 200), "small.png": (30, 50)}
    for split in ("train", "val"):
        for label in "abc":
            (root / split / label).mkdir(parents=True)
            for name in NAMES if (split, label) == ("val", "b") else NAMES[:1]:
                picture(name, *sizes.get(name, (400, 260)), modes.get(name, "RGB")).save(root / split / label / name)
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save(tmp_path_factory.mktemp("model") / "m", "classification", 3, SIZE, "Hyper", head_dim=8)
    network, metadata = load_model(folder)
    torch.nn.init.normal_(network.heads["label"].weight, std=2.0, generator=torch.Generator().manual_seed(1))
    data = ImageFolderData(".")
    save_model(folder, network, replace(metadata, mean=data.mean, std=data.std, resize_type=RESIZED))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_photo_has_the_scores_that_validation_gives_it(
    photos: Path, model: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
):
    data = ImageFolderData(str(photos), image_size=SIZE, batch_size=1)
    data.setup("fit")
    batch = next(each for each in data.val_dataloader() if each["name"] == [name] and each["label"].item() == 1)
    with torch.inference_mode():
        want = load_model(model)[0].eval()(batch["image"], batch["valid"])["label"][0].softmax(0)
    out = tmp_path / "out.tif"
    path = photos / "val" / "b" / name
    assert main(["predict", str(path), "-m", str(model), "-o", str(out)]) == 0
    assert "warning" not in capsys.readouterr().err
    answer = json.loads(out.with_suffix(".json").read_text())
    assert list(answer["scores"].values()) == pytest.approx(want.tolist(), abs=1e-6)
    assert answer["class"] == "abc"[int(want.argmax())]
    with rasterio.open(out) as dataset, Image.open(path) as image:
        assert (dataset.width, dataset.height) == image.size
        assert (dataset.read(1) == want.argmax().item()).all()


def test_from_python_it_is_the_same_and_mirrored_too(photos: Path, model: Path):
    loaded, path = xt.load(model), photos / "val" / "b" / "wide.png"
    metadata, network = loaded.metadata, loaded.network
    pixels, valid = Photo(path, metadata.inputs, SIZE).read(xt.Window(0, 0, SIZE, SIZE))
    assert valid.all()
    image = torch.from_numpy(pixels)[None]
    views = [image, image.flip(-1), image.flip(-2), image.flip(-1, -2)]
    with torch.inference_mode():
        want = torch.stack([network(each)["label"][0].softmax(0) for each in views])
    for tta, scores in (("none", want[0]), ("flips", want.mean(0))):
        with xt.predict(loaded, path, tta=tta) as result:
            assert list(result.answer["scores"].values()) == pytest.approx(scores.tolist(), abs=1e-6)
            assert result.shape == (300, 700)


def test_a_tile_asks_windows_of_the_image_as_it_is(photos: Path, model: Path, tmp_path: Path):
    network, metadata = load_model(model)
    save_model(tmp_path / "as_it_is", network, replace(metadata, resize_type=""))
    path, tile = photos / "val" / "b" / "wide.png", ["--tile", str(SIZE)]
    for out, argv in {
        "windows": ["-m", str(model), *tile],
        "others": ["-m", str(tmp_path / "as_it_is")],
        "whole": ["-m", str(model)],
    }.items():
        assert main(["predict", str(path), *argv, "-o", str(tmp_path / f"{out}.tif")]) == 0
    windows, others, whole = ((tmp_path / f"{out}.json").read_text() for out in ("windows", "others", "whole"))
    assert windows == others != whole
    argv = ["predict", str(path), "-m", str(model), *tile, "--bands", "1,2,3", "-o", str(tmp_path / "joined.tif")]
    assert [main([*argv, "--shard", f"{number}/2"]) for number in (1, 2)] == [0, 0]
    assert main(["merge", str(tmp_path / "joined.tif")]) == 0
    assert (tmp_path / "joined.json").read_text() == windows


@pytest.mark.parametrize(
    "argv",
    [
        ["--context", "full"], ["--overlap", "64"], ["--bands", "1,2,3"], ["--nodata", "0"], ["--window", "0,0,64,64"],
        ["--complex", "abs"], ["--shard", "1/2"],
    ],
    ids=lambda argv: argv[0],
)  # fmt: skip
def test_what_is_for_windows_is_refused(
    photos: Path, model: Path, tmp_path: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
):
    path, out = photos / "val" / "b" / "wide.png", tmp_path / "out.tif"
    assert main(["predict", str(path), "-m", str(model), "-o", str(out), *argv]) == 2
    told = capsys.readouterr().err
    assert "share" if argv[0] == "--shard" else argv[0] in told
    assert f"--tile {SIZE}" in told
    assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["aoi", "mask"])
def test_limits_are_refused_too(photos: Path, model: Path, tmp_path: Path, name: str):
    with pytest.raises(ConfigError, match=f"--{name} is for windows"):
        xt.predict(xt.load(model), photos / "val" / "b" / "wide.png", **{name: tmp_path / "x"})


def test_several_photos_are_shared_out(photos: Path, model: Path, tmp_path: Path):
    images = sorted(str(path) for path in (photos / "val" / "b").iterdir())
    assert main(["predict", *images, "-m", str(model), "-o", str(tmp_path / "out"), "--shard", "2/3"]) == 0
    assert len(list((tmp_path / "out").glob("*.json"))) == 2 * len(images[1::3])  # the report too


def test_a_result_that_is_there_is_kept(photos: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    argv = ["predict", str(photos / "val" / "b" / "high.jpg"), "-m", str(model), "-o", str(tmp_path / "out.tif")]
    assert main(argv) == main(argv) == 0
    assert "done before" in capsys.readouterr().out
    assert main([*argv, "--tile", str(SIZE)]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_what_it_takes_is_told(photos: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = photos / "val" / "b" / "wide.png"
    assert main(["predict", str(path), "-m", str(model), "-o", str(tmp_path / "o.tif"), "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["height"], told["width"], told["regions"], told["windows"]) == (300, 700, 4, 1)
    assert told["result"] == 300 * 700 * 4 // 3
    assert told["disk"] >= told["result"]


def test_of_a_map_it_is_said_that_all_of_it_is_seen_at_once(model: Path, tmp_path: Path):
    path = tmp_path / "map.tif"
    grid = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 500000, 0, -10, 5000000)}
    with rasterio.open(path, "w", driver="GTiff", width=300, height=200, count=3, dtype="uint8", **grid) as dataset:
        dataset.write(np.random.default_rng(0).integers(0, 255, (3, 200, 300)).astype(np.uint8))
    with pytest.warns(XTWarning, match=f"200 × 300 px are seen as a whole.*--tile {SIZE}"):
        with xt.predict(xt.load(model), path) as result:
            result.write(tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert (dataset.crs, dataset.transform) == (rasterio.CRS.from_epsg(32632), grid["transform"])


@pytest.mark.parametrize("kind", ["folder", "numbers", "broken"])
def test_what_is_no_photo_is_told(
    photos: Path, model: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "in.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "numbers":
        path.write_text("1,2,3")
    else:
        path.write_bytes((photos / "val" / "b" / "wide.png").read_bytes()[:3000])
    assert main(["predict", str(path), "-m", str(model), "-o", str(tmp_path / "out.tif")]) == 3
    told = capsys.readouterr().err
    assert str(path) in told
    assert told.count("\n") == 1
    assert f"--tile {SIZE}" in told
    assert ("is no image file on this machine" in told) == (kind == "folder")
    assert not (tmp_path / "out.tif").exists()


def test_a_model_of_other_bands_sees_no_photo(photos: Path, tmp_path: Path):
    network, metadata = load_model(save(tmp_path / "m", "classification", 4, SIZE))
    model = xt.TrainedModel(network, replace(metadata, resize_type=RESIZED))
    with pytest.raises(InputError, match=f"the model takes 4 bands, no photo; .*--tile {SIZE}"):
        xt.predict(model, photos / "val" / "b" / "wide.png")
