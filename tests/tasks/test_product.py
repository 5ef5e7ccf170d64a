"""What the tasks publish."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_jaccard_index

from xt.data.base import DataModule
from xt.data.labels import LabelTable
from xt.errors import ModelError
from xt.losses.detection import DetectionLoss, PaperDetectionLoss, PointLoss
from xt.models.metadata import ModelMetadata
from xt.tasks.base import Product
from xt.tasks.classification import ImageClassification
from xt.tasks.detection import PointDetection
from xt.tasks.preview import COLOURS, class_colours
from xt.tasks.registry import task_of
from xt.tasks.segmentation import SemanticSegmentation, class_outputs, class_product


@pytest.mark.parametrize("kind", ["semantic-segmentation", "classification"])
def test_classes_have_names_and_colours_and_are_not_averaged(kind: str):
    product = task_of(ModelMetadata(kind, ("b",), (0.0,), (1.0,), classes=("sea", "ice", "ship"))).product
    assert product == Product(("class",), "uint8", 255.0, "mode", ("sea", "ice", "ship"), COLOURS[:3])


def test_classes_that_a_byte_does_not_hold_have_no_colours():
    metadata = ModelMetadata("classification", ("b",), (0.0,), (1.0,), classes=tuple(map(str, range(300))))
    product = task_of(metadata).product
    assert (product.dtype, product.colours, len(product.classes)) == ("uint16", None, 300)
    for number, dtype, exported in ((255, "uint8", torch.uint8), (256, "uint16", torch.int32)):
        product = class_product(tuple(map(str, range(number))))
        assert (product.dtype, product.nodata) == (dtype, np.iinfo(dtype).max)
        logits, valid = F.one_hot(torch.tensor([[3, 1]]), number).movedim(-1, 1), torch.tensor([[True, False]])
        found = class_outputs("scores", logits.float(), valid, product.nodata)["class"]
        assert found.tolist() == [[3, np.iinfo(dtype).max]]
        assert found.dtype == exported


def test_maps_are_averaged():
    product = task_of(ModelMetadata("point-detection", ("b",), (0.0,), (1.0,))).product
    assert (product.resampling, product.classes, product.colours) == ("average", (), None)


def test_a_product_of_three_words_is_one():
    product = Product(("height",), "float32", -1000.0)
    assert (product.resampling, product.classes, product.colours) == ("average", (), None)


def test_wrong_products_are_named():
    with pytest.raises(ModelError, match="'cubic' must be one of average, mode"):
        Product(("a",), "uint8", 255, "cubic")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="1 colours for 2 classes"):
        Product(("a",), "uint8", 255, "mode", ("x", "y"), ((0, 0, 0),))


def test_colours_begin_again_behind_the_background():
    colours = class_colours(17)
    assert colours[:8] == COLOURS
    assert colours[8:] == (*COLOURS[1:], *COLOURS[1:3])


@pytest.mark.parametrize("loss", [DetectionLoss(), PaperDetectionLoss()])
def test_maps_of_points_are_on_the_scale_of_their_targets(loss: PointLoss):
    task = PointDetection(loss)
    raw = {name: 4 * torch.randn(2, 1, 5, 7, generator=torch.Generator().manual_seed(0)) for name in task.heads}
    for values in raw.values():
        values[:, :, 0, 0] = -800
    with np.errstate(over="ignore"):
        want = {name: 255 / (1 + np.exp(-values.double().numpy())) for name, values in raw.items()}
    if loss.center_activation == "linear":
        want["center"] = (255 * raw["center"].double().numpy()).clip(0, 255)
    want["length"] = (100 * raw["length"].double().numpy()).clip(0)
    for index in range(2):
        found = task.activate({name: values[index] for name, values in raw.items()})
        np.testing.assert_allclose(
            found, np.concatenate([want[name][index] for name in task.maps]), rtol=1e-5, atol=1e-4
        )
    valid = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(1)) < 0.5
    for name, values in task.published(raw, valid).items():
        assert torch.equal(values.isnan(), ~valid)
        np.testing.assert_allclose(values[valid], want[name][:, 0][valid.numpy()], rtol=1e-5, atol=1e-4)


def test_a_saved_model_tells_how_its_maps_are_read():
    settings = PointDetection(PaperDetectionLoss()).settings() | {"maps": ["center", "length"]}
    saved = ModelMetadata("point-detection", ("b",), (0.0,), (1.0,), thresholds={"center": 40.0}, settings=settings)
    task = task_of(saved)
    assert isinstance(task, PointDetection)
    assert task.product.names == ("center", "length")
    assert task.thresholds()["center"] == 40
    values = task.activate({name: torch.full((1, 2, 3), 0.5) for name in task.heads})
    assert values[:, 0, 0].tolist() == [127.5, 50]


def test_where_an_image_has_no_data_nothing_is_found():
    task = PointDetection()
    raw = {name: torch.full((1, 1, 40, 40), -9.0) for name in task.heads}
    for row in (10, 30):
        raw["center"][..., row - 1 : row + 2, 9:12] = 9
    valid = torch.ones(1, 1, 40, 40, dtype=torch.bool)
    valid[..., 20:, :] = False
    real = LabelTable.build(1, row=[10], column=[10], scene_id=["s"], confidence=["HIGH"])
    batch = {
        "image": raw["center"],
        "valid": valid,
        "name": ["s"],
        "scene_id": ["s"],
        "origin": [(0, 0)],
        "points": [real],
    }
    task.measure(lambda image, valid: raw, batch)  # type: ignore[arg-type]
    assert task.scores(DataModule, tune=False)["loc_fscore"] == 1  # type: ignore[arg-type]


def test_labels_are_smoothed_as_asked():
    logits, label = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 1, 1])
    batch = {"image": torch.zeros(4, 1, 2, 2), "valid": torch.ones(4, 1, 2, 2, dtype=torch.bool), "label": label}
    for smoothing in (0.0, 0.3):
        loss = ImageClassification(smoothing).losses(lambda image, valid: {"label": logits}, batch)  # type: ignore[arg-type]
        torch.testing.assert_close(loss["loss"], F.cross_entropy(logits, label, label_smoothing=smoothing))


def test_accuracy_is_of_the_images_since_the_last():
    class Data:
        classes, gives = ("sea", "ice", "ship"), "label"

    task = ImageClassification()
    task.adopt(Data)  # type: ignore[arg-type]
    said = torch.eye(3)[[0, 1, 2, 0]]
    for label, want in (([0, 1, 2, 1], 3 / 4), ([1, 2, 2, 1], 1 / 4)):
        batch = {"image": torch.zeros(4, 1, 2, 2), "valid": torch.ones(4, 1, 2, 2), "label": torch.tensor(label)}
        task.measure(lambda image, valid: {"label": said}, batch)  # type: ignore[arg-type]
        assert task.scores(Data, tune=False) == {"top1": want}  # type: ignore[arg-type]


@pytest.mark.parametrize("background", [True, False])
def test_the_first_class_counts_in_the_means_unless_it_is_background(background: bool):
    class Data:
        classes, ignore_index, gives = ("tree", "water", "road", "ice"), 9, "mask"

    rng = np.random.default_rng(3)
    said, mask = (torch.from_numpy(rng.integers(0, 3, (1, 20, 20))) for _ in range(2))
    mask[:, :2] = 9
    # A saved model says it, and a task with the defaults knows.
    settings = SemanticSegmentation(background=background).settings()
    metadata = ModelMetadata("semantic-segmentation", ("b",), (0.0,), (1.0,), classes=Data.classes, settings=settings)
    task = task_of(metadata)
    task.adopt(Data)  # type: ignore[arg-type]
    raw = {"mask": F.one_hot(said, 4).movedim(-1, 1).float()}
    batch = {"image": torch.zeros(1, 1, 20, 20), "valid": torch.ones(1, 1, 20, 20, dtype=torch.bool), "mask": mask}
    task.measure(lambda image, valid: raw, batch)  # type: ignore[arg-type]
    scores = task.scores(Data, tune=False)  # type: ignore[arg-type]
    for name, of in (("iou", multiclass_jaccard_index), ("f1", multiclass_f1_score)):
        each = of(said[mask != 9], mask[mask != 9], num_classes=3, average=None).tolist()
        assert scores[name] == pytest.approx(np.mean(each[1:] if background else each))


def test_masks_are_learnt_and_scored_without_what_is_ignored_and_the_background_is_no_score():
    class Data:
        classes, ignore_index, gives = ("sea", "ice", "ship"), 9, "mask"

    task = SemanticSegmentation()
    task.adopt(Data)  # type: ignore[arg-type]
    mask = torch.tensor([[[0, 0, 1, 1], [2, 2, 9, 9]]])
    said = torch.tensor([[[0, 1, 1, 1], [2, 0, 2, 1]]])
    batch = {"image": torch.zeros(1, 1, 2, 4), "valid": torch.ones(1, 1, 2, 4, dtype=torch.bool), "mask": mask}
    seen: list[dict[str, torch.Tensor]] = []

    class Model:
        def statistics(
            self, image: object, targets: dict[str, torch.Tensor], of: object, valid: object
        ) -> torch.Tensor:
            seen.append(targets)
            return torch.zeros(11)

        def __call__(self, image: object, valid: object) -> dict[str, torch.Tensor]:
            return {"mask": F.one_hot(said, 3).movedim(-1, 1).float()}

    task.losses(Model(), batch)  # type: ignore[arg-type]
    assert seen[0]["valid"].equal((mask != 9)[:, None])
    task.measure(Model(), batch)  # type: ignore[arg-type]
    scores = task.scores(Data, tune=False)  # type: ignore[arg-type]
    of_classes = [1 / 3, 2 / 3, 1 / 2]
    assert [scores[f"iou_{name}"] for name in Data.classes] == pytest.approx(of_classes)
    assert scores["iou"] == pytest.approx(np.mean(of_classes[1:]))
    assert scores["f1"] == pytest.approx(np.mean([4 / 5, 2 / 3]))
    said = mask.clamp(max=2)
    task.measure(Model(), batch)  # type: ignore[arg-type]
    assert task.scores(Data, tune=False)["iou"] == 1  # type: ignore[arg-type]
    mask, said = torch.tensor([[[0, 0, 1, 1], [0, 9, 9, 9]]]), torch.tensor([[[0, 0, 1, 0], [0, 1, 2, 0]]])
    task.measure(Model(), batch | {"mask": mask})  # type: ignore[arg-type]
    scores = task.scores(Data, tune=False)  # type: ignore[arg-type]
    assert scores == pytest.approx(
        {"iou": 0.5, "f1": 2 / 3, "iou_sea": 3 / 4, "iou_ice": 0.5, "f1_sea": 6 / 7, "f1_ice": 2 / 3}
    )
    task.measure(Model(), batch | {"mask": mask, "valid": (said == mask)[:, None]})  # type: ignore[arg-type]
    assert set(task.scores(Data, tune=False).values()) == {1}  # type: ignore[arg-type]
    task.measure(Model(), batch | {"mask": mask.clamp(min=9)})  # type: ignore[arg-type]
    assert task.scores(Data, tune=False) == {"iou": 0, "f1": 0}  # type: ignore[arg-type]
