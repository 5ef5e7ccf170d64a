"""What the tasks publish."""

import numpy as np
import pytest
import torch

from xt.errors import ModelError
from xt.losses.detection import DetectionLoss, PaperDetectionLoss, PointLoss
from xt.models.metadata import ModelMetadata
from xt.tasks.base import Product
from xt.tasks.detection import PointDetection
from xt.tasks.preview import COLOURS, class_colours
from xt.tasks.registry import task_of


@pytest.mark.parametrize("kind", ["semantic-segmentation", "classification"])
def test_classes_have_names_and_colours_and_are_not_averaged(kind: str):
    product = task_of(ModelMetadata(kind, ("b",), (0.0,), (1.0,), classes=("sea", "ice", "ship"))).product
    assert product == Product(("class",), "uint8", 255.0, "mode", ("sea", "ice", "ship"), COLOURS[:3])


def test_classes_that_a_byte_does_not_hold_have_no_colours():
    metadata = ModelMetadata("classification", ("b",), (0.0,), (1.0,), classes=tuple(map(str, range(300))))
    product = task_of(metadata).product
    assert (product.dtype, product.colours, len(product.classes)) == ("uint16", None, 300)


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
