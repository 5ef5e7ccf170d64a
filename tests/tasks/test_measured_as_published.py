"""Train, predict, score: what is published of an image scores what ``xt eval`` says, for each task and a plug-in."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyogrio
import pytest
import rasterio
import torch
import yaml
from PIL import Image
from torch import Tensor

import xt
from xt import plugins
from xt.cli.main import main
from xt.data.base import DataModule
from xt.data.predictions import read_predictions
from xt.models.checkpoint import load_model
from xt.models.metadata import ModelMetadata
from xt.models.xt import XT
from xt.tasks.base import Batch, Losses, Product, Task, Valid, Values, painted
from xt.tasks.detection import COLOURS
from xt.tasks.preview import GAP, NO_DATA, class_colours, of_classes
from xt.tasks.registry import task_of

PARTS = {
    "region_encoder": {"class_path": "TimmFeatures", "init_args": {
        "name": "convnext_atto", "region_size": 64, "norm": True,
        "model_args": {"dims": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "drop_path_rate": 0.0},
    }},
    "context": {"class_path": "Mamba", "init_args": {"depth": 1}},
    "context_dim": 16,
    "decoder": {"class_path": "UNet", "init_args": {"filters": [8, 8, 16], "out_stride": 4}},
}  # fmt: skip
SIZE = 128
PAIRS = {"validation": "^v", "image_size": SIZE, "bands": ["red", "green", "blue"], "classes": ["sea", "ship"],
         "batch_size": 2, "crops_per_image": 4}  # fmt: skip


class Height(Task):
    """A task of a user's own: a number for each pixel, learnt from the mask."""

    kind = "height"
    takes = "mask"
    monitor: ClassVar[str] = "closeness"

    def __init__(self, scale: float = 10.0) -> None:
        super().__init__()
        self.scale = scale
        self.errors: list[Tensor] = []

    @property
    def heads(self) -> dict[str, int]:
        return {"height": 1}

    def prepare(self, metadata: ModelMetadata) -> None:
        super().prepare(metadata)
        self.scale = metadata.settings.get("scale", self.scale)

    def settings(self) -> dict[str, Any]:
        return {"scale": self.scale}

    def losses(self, model: XT, batch: Batch) -> Losses:
        return {"loss": (model(batch["image"], batch["valid"])["height"][:, 0] - batch["mask"]).abs().mean()}

    def measure(self, model: XT, batch: Batch) -> Mapping[str, Tensor]:
        raw: dict[str, Tensor] = model(batch["image"], batch["valid"])
        self.errors.append((self.scale * (raw["height"][:, 0] - batch["mask"]).abs())[batch["valid"][:, 0]])
        return raw

    def scores(self, data: DataModule, tune: bool) -> dict[str, float]:
        error = torch.cat(self.errors).mean().item()
        self.errors = []
        return {"closeness": -error}

    @property
    def product(self) -> Product:
        return Product(("height",), "float32", -1000.0)

    def activate(self, raw: Mapping[str, Tensor]) -> Values:
        return self.scale * raw["height"].float().cpu().numpy()

    def paint(self, values: Values, valid: Valid) -> npt.NDArray[Any]:
        return painted(values, valid, self.product)


@pytest.fixture(autouse=True, scope="module")
def plugged_in() -> Any:
    plugins.register("tasks", "Height")(Height)
    yield
    plugins._registered["tasks"].pop("Height")


def train(folder: Path, task: Any, data: dict[str, Any], epochs: int = 4, decoder: Any = None) -> Path:
    """Train a small model of a task; return its run."""
    trainer = {"accelerator": "cpu", "max_epochs": epochs, "check_val_every_n_epoch": epochs}
    values = {
        "seed_everything": 1,
        "trainer": trainer | {"enable_progress_bar": False},
        "model": {"task": task, "lr": 0.004, "warmup_steps": 2, "model": PARTS | ({"decoder": decoder} if decoder else {})},
        "data": data,
    }  # fmt: skip
    (folder / "c.yaml").write_text(yaml.safe_dump(values))
    assert main(["train", str(folder / "c.yaml"), "--run_dir", str(folder / "run")]) == 0
    return folder / "run"


def measured(run: Path, capsys: pytest.CaptureFixture[str], split: str = "validation") -> dict[str, float]:
    capsys.readouterr()
    assert main(["eval", str(run), "--split", split, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])
    return {name.partition("/")[2]: value for name, value in scores.items()}


def predicted(run: Path, image: Path, out: Path) -> npt.NDArray[Any]:
    assert main(["predict", str(image), "-m", str(run), "-o", str(out), "--tile", str(2 * SIZE)]) == 0
    with rasterio.open(out) as dataset:
        return dataset.read()


def pairs(folder: Path) -> dict[str, Any]:
    """Bright squares on noise, whose corner has no data."""
    rng = np.random.default_rng(0)
    for name in ("a", "b", "v"):
        pixels, mask = rng.integers(1, 90, (2 * SIZE, SIZE, 3), dtype=np.uint8), np.zeros((2 * SIZE, SIZE), np.uint8)
        for row, col in rng.integers(0, 100, (8, 2)):
            pixels[row : row + 20, col : col + 20] += 110
            mask[row : row + 20, col : col + 20] = 1
        pixels[:30, :40] = 0
        for kind, array in (("images", pixels), ("masks", mask)):
            (folder / kind).mkdir(exist_ok=True)
            Image.fromarray(array).save(folder / kind / f"{name}.png")
    return {"class_path": "RasterPairsData", "init_args": PAIRS | {"root": str(folder), "nodata": 0}}


def truth(folder: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    with rasterio.open(folder / "masks/v.png") as mask, rasterio.open(folder / "images/v.png") as image:
        return mask.read(1), (image.read() != 0).all(0)


def without_training_images(folder: Path, known: str) -> None:
    """Remove them, so that mean and deviation can come from nowhere but the model."""
    for path in [*(folder / "images").iterdir(), *(folder / known).iterdir()]:
        if path.stem != "v":
            path.unlink()


def samples(run: Path, rows: int) -> dict[str, npt.NDArray[Any]]:
    """What a run drew: name → the last rows, which are those of the pictures."""
    return {path.name: np.asarray(Image.open(path))[-rows:] for path in sorted((run / "samples").iterdir())}


def test_detection(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = tmp_path / "data"
    assert main(["synth", "xview3", str(data), "--scenes", "16", "--size", str(SIZE)]) == 0
    settings = {"root": str(data), "image_size": SIZE, "batch_size": 2}
    run = train(tmp_path, "PointDetection", {"class_path": "XView3Data", "init_args": settings}, 5)
    want = measured(run, capsys)
    drawn = samples(run, SIZE)
    assert len(drawn) == len(list((data / "validation").iterdir()))
    for pixels in drawn.values():
        marked = np.any([(pixels == colour).all(-1) for colour in COLOURS.values()], axis=0)
        assert marked[:, :SIZE].any()
        assert not marked[:, SIZE:].any()
    lines: list[str] = []
    for scene in sorted((data / "validation").iterdir()):
        predicted(run, scene, tmp_path / f"{scene.name}.tif")
        rows = (tmp_path / f"{scene.name}.csv").read_text().splitlines()
        lines += rows if not lines else rows[1:]
    (tmp_path / "all.csv").write_text("\n".join(lines) + "\n")
    assert want["loc_fscore"] > 0.2
    capsys.readouterr()
    shoreline = ["--shoreline", str(data / "shoreline")]
    assert main(["score", str(tmp_path / "all.csv"), str(data / "validation.csv"), *shoreline, "--json"]) == 0
    got = json.loads(capsys.readouterr().out.splitlines()[-1])
    for name, value in want.items():
        assert got[name] == pytest.approx(value, abs=1e-6), name


def test_objects_of_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rng, rows = np.random.default_rng(0), ["scene_id,row,column,class"]
    (tmp_path / "images").mkdir()
    for name in ("a", "b", "c", "v"):
        pixels = rng.normal(100, 4, (SIZE, 2 * SIZE))
        for index, (row, col) in enumerate(
            rng.permutation([(r, c) for r in (20, 60, 100) for c in range(20, 240, 30)])
        ):
            label, sign = (("roof", 1), ("pond", -1))[index % 2]
            pixels[row - 3 : row + 4, col - 3 : col + 4] += 60 * sign
            rows.append(f"{name},{row},{col},{label}")
        Image.fromarray(pixels.clip(1, 255).astype(np.uint8)).save(tmp_path / f"images/{name}.png")
    (tmp_path / "points.csv").write_text("\n".join(rows) + "\n")
    options = {"root": str(tmp_path), "bands": ["grey"], "classes": ["roof", "pond"], "validation": "^v",
               "image_size": SIZE, "validation_tile": 2 * SIZE, "crops_per_scene": 8}  # fmt: skip
    task = {"class_path": "ObjectDetection", "init_args": {"tolerance": 6}}
    run = train(tmp_path, task, {"class_path": "PointsData", "init_args": options}, 10)
    want = measured(run, capsys)
    assert set(want) == {"f1", "loc_f1", "f1_roof", "f1_pond"}
    assert want["f1"] > 0.6
    drawn = samples(run, 2 * SIZE)["0_v_rows_0_columns_0.png"][:, : 2 * SIZE]
    assert all((drawn == colour).all(-1).any() for colour in class_colours(3)[1:])
    maps = predicted(run, tmp_path / "images/v.png", tmp_path / "v.tif")
    np.testing.assert_allclose(maps[1] + maps[2], 255, atol=1e-3)
    with rasterio.open(tmp_path / "v.tif") as dataset:
        assert dataset.descriptions == ("center", "class roof", "class pond")
    capsys.readouterr()
    argv = ["score", str(tmp_path / "v.csv"), str(tmp_path / "points.csv"), "--scene", "v", "--tolerance", "6"]
    assert main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == pytest.approx(want, abs=1e-6)
    layer = pyogrio.raw.read(tmp_path / "v.gpkg")
    table = read_predictions(tmp_path / "v.csv")
    assert list(layer[0]["fields"]) == ["row", "column", "scene_id", "class", "score"]
    assert layer[3][3].tolist() == table.label.tolist()
    _, metadata = load_model(run)
    assert (metadata.task, metadata.classes) == ("object-detection", ("roof", "pond"))
    assert set(metadata.thresholds) == {"center", "class roof", "class pond"}
    with xt.predict(xt.load(run), tmp_path / "images/v.png", tile=2 * SIZE) as result:
        assert result.objects.label.tolist() == table.label.tolist()
    argv = ["train", str(tmp_path / "c.yaml"), "--run_dir", str(tmp_path / "other")]
    for changes, said in (
        (["--data.classes", "[]"], "ObjectDetection learns at least two"),
        (["--model.task", "PointDetection"], "PointDetection tells no classes; take ObjectDetection"),
    ):
        assert main([*argv, *changes]) == 2
        assert said in capsys.readouterr().err


def test_segmentation(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = train(tmp_path, "SemanticSegmentation", pairs(tmp_path))
    want = measured(run, capsys)
    (classes,), (mask, valid) = predicted(run, tmp_path / "images/v.png", tmp_path / "o.tif"), truth(tmp_path)
    assert (classes[~valid] == 255).all()
    found, real = classes[valid] == 1, mask[valid] == 1
    assert want["iou_ship"] == pytest.approx((found & real).sum() / (found | real).sum(), abs=1e-6)
    drawn = samples(run, 2 * SIZE)["0_v.png"]
    assert (drawn[:, -SIZE:] == of_classes(classes.astype(int), valid)).all()
    assert (drawn[:, -2 * SIZE - GAP : -SIZE - GAP] == of_classes(mask.astype(int), valid)).all()
    assert 0.02 < want["iou_ship"] < 1
    without_training_images(tmp_path, "masks")
    assert measured(run, capsys) == want


@pytest.mark.parametrize("limits", [None, [-1.0, 100.0]])
def test_regression(limits: list[float] | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pairs(tmp_path)
    (tmp_path / "values").mkdir()
    for name in ("a", "b", "v"):
        with (
            rasterio.open(tmp_path / f"masks/{name}.png") as mask,
            rasterio.open(tmp_path / f"images/{name}.png") as image,
        ):
            values = np.stack([200.0 * mask.read(1) - 3, image.read().mean(0) / 1000]).astype(np.float32)
        values[1, 100:120] = np.nan
        profile = {"driver": "GTiff", "count": 2, "height": 2 * SIZE, "width": SIZE, "dtype": "float32"}
        with rasterio.open(tmp_path / f"values/{name}.tif", "w", **profile) as out:
            out.write(values)
    options = {name: value for name, value in PAIRS.items() if name != "classes"}
    options |= {"root": str(tmp_path), "nodata": 0, "targets": ["height", "light"]}
    task = {"class_path": "PixelRegression", "init_args": {} if limits is None else {"limits": limits}}
    run = train(tmp_path, task, {"class_path": "RasterValuesData", "init_args": options})
    want = measured(run, capsys)
    found, (_, valid) = predicted(run, tmp_path / "images/v.png", tmp_path / "o.tif"), truth(tmp_path)
    assert np.isnan(found[:, ~valid]).all()
    with rasterio.open(tmp_path / "values/v.tif") as dataset:
        real = dataset.read()
    known = valid & np.isfinite(real)
    for name, said, true in (
        ("height", found[0][known[0]], real[0][known[0]]),
        ("light", found[1][known[1]], real[1][known[1]]),
    ):
        error = said.astype(np.float64) - true
        assert want[f"rmse_{name}"] == pytest.approx(np.sqrt(np.square(error).mean()), rel=1e-4)
        assert want[f"mae_{name}"] == pytest.approx(np.abs(error).mean(), rel=1e-4)
        assert want[f"bias_{name}"] == pytest.approx(error.mean(), rel=1e-3, abs=1e-4 * float(true.std()))
        assert want[f"r2_{name}"] == pytest.approx(1 - np.square(error).mean() / true.var(), abs=1e-4)
        assert want[f"r2_{name}"] > 0.05
    assert want["r2"] == pytest.approx((want["r2_height"] + want["r2_light"]) / 2)
    if limits:
        assert np.nanmin(found[0]) == -1.0
        assert np.nanmax(found[0]) <= 100.0
    assert list(samples(run, 2 * SIZE)) == ["0_v.png"]
    _, metadata = load_model(run)
    assert metadata.settings["targets"] == ["height", "light"]
    assert metadata.settings["limits"] == (limits or [None, None])
    without_training_images(tmp_path, "values")
    assert measured(run, capsys) == want


def test_classification(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rng = np.random.default_rng(0)
    for split, num in (("train", 6), ("val", 8)):
        for index, name in enumerate(("dark", "bright")):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(num):
                pixels = rng.normal(100 + 20 * index, 30 + 40 * rng.random(), (SIZE, SIZE, 3)).clip(0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / split / name / f"{i}.png")
    data = {"class_path": "ImageFolderData", "init_args": {"root": str(tmp_path), "image_size": SIZE, "batch_size": 4}}
    run = train(
        tmp_path, {"class_path": "ImageClassification", "init_args": {"label_smoothing": 0.0}}, data, decoder="Pooled"
    )
    assert list(samples(run, SIZE)) == ["0_0.png", "1_1.png", "2_2.png", "3_3.png"]
    right = []
    for name in ("bright", "dark"):
        for i in range(8):
            out = tmp_path / f"{name}{i}.tif"
            pixels = predicted(run, tmp_path / "val" / name / f"{i}.png", out)
            answer = json.loads(out.with_suffix(".json").read_text())
            assert answer["class"] == max(answer["scores"], key=answer["scores"].get)
            assert (pixels == ("bright", "dark").index(answer["class"])).all()
            right.append(answer["class"] == name)
    assert measured(run, capsys)["top1"] == pytest.approx(np.mean(right), abs=1e-6)


def test_a_task_of_one_s_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = train(tmp_path, {"class_path": "Height", "init_args": {"scale": 7.0}}, pairs(tmp_path))
    want = measured(run, capsys)["closeness"]
    (height,), (mask, valid) = predicted(run, tmp_path / "images/v.png", tmp_path / "o.tif"), truth(tmp_path)
    assert (height[~valid] == -1000).all()
    low, high = min(0, height[valid].min()), max(0, height[valid].max())
    shown = np.where(valid, (height - low) / (high - low) * 255, NO_DATA[0])
    drawn = samples(run, 2 * SIZE)["0_v.png"]
    assert np.abs(drawn[:, -SIZE:, 0] - shown).max() <= 1
    assert want == pytest.approx(-np.abs(height - 7.0 * mask)[valid].mean(), abs=1e-4)
    _, metadata = load_model(run)
    assert (metadata.task, metadata.task_class, metadata.settings) == ("height", "Height", {"scale": 7.0})
    task = task_of(metadata)
    assert isinstance(task, Height)
    assert task.scale == 7.0
    plugins._registered["tasks"].pop("Height")
    try:
        assert main(["predict", str(tmp_path / "images/a.png"), "-m", str(run), "-o", str(tmp_path / "no.tif")]) == 2
        assert "the model is for task 'Height', which no class here is; known: " in capsys.readouterr().err
    finally:
        plugins.register("tasks", "Height")(Height)


def test_data_that_give_something_else_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = pairs(tmp_path)
    (tmp_path / "c.yaml").write_text(
        yaml.safe_dump({"model": {"task": "PointDetection", "model": PARTS}, "data": data})
    )
    assert main(["train", str(tmp_path / "c.yaml"), "--run_dir", str(tmp_path / "run")]) == 2
    assert "RasterPairsData gives mask, PointDetection learns from points" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
