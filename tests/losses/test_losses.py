from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from xt.builtin_names import BUILTINS
from xt.errors import ConfigError
from xt.losses.base import TileLoss
from xt.losses.detection import ClassLoss, DetectionLoss, PaperDetectionLoss
from xt.losses.regression import RegressionLoss
from xt.losses.segmentation import SegmentationLoss
from xt.tasks.classification import ImageClassification
from xt.tasks.detection import PointDetection
from xt.tasks.segmentation import SemanticSegmentation


def detection_case() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    g = torch.Generator().manual_seed(0)
    maps = {
        n: torch.randn(2, 1, 24, 30, generator=g, dtype=torch.float64).requires_grad_()
        for n in ("center", "vessel", "fishing", "length")
    }
    flags = torch.tensor([0, 1, 255])
    targets = {n: flags[torch.randint(3, (2, 1, 24, 30), generator=g)].to(torch.uint8) for n in ("vessel", "fishing")}
    targets["center"] = torch.randint(150, 256, (2, 1, 24, 30), generator=g).to(torch.uint8)
    targets["length"] = torch.tensor([-1.0, 0.0, 6.5, 55.0])[torch.randint(4, (2, 1, 24, 30), generator=g)]
    targets["valid"] = torch.rand(2, 1, 24, 30, generator=g) > 0.2
    return maps, targets


def segmentation_case() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    g = torch.Generator().manual_seed(0)
    maps = {"mask": torch.randn(2, 3, 24, 30, generator=g).requires_grad_()}
    mask = torch.tensor([0, 1, 2, 255])[torch.randint(4, (2, 24, 30), generator=g)]
    valid = (torch.rand(2, 1, 24, 30, generator=g) > 0.2) & (mask != 255)[:, None]
    return maps, {"mask": mask, "valid": valid}


def regression_case() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    g = torch.Generator().manual_seed(0)
    maps = {"value": torch.randn(2, 3, 24, 30, generator=g).requires_grad_()}
    values = 3 * torch.randn(2, 3, 24, 30, generator=g)
    values[torch.rand(values.shape, generator=g) > 0.7] = torch.nan
    values[:, 1] = torch.nan  # a target of which nothing is known
    return maps, {"value": values, "valid": torch.rand(2, 1, 24, 30, generator=g) > 0.2}


def class_case() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    maps, targets = detection_case()
    g = torch.Generator().manual_seed(1)
    maps = {"center": maps["center"], "kind": torch.randn(2, 3, 24, 30, generator=g).double().requires_grad_()}
    kind = torch.tensor([0, 1, 2, 255])[torch.randint(4, (2, 1, 24, 30), generator=g)].to(torch.uint8)
    return maps, {"kind": kind, "center": targets["center"], "valid": targets["valid"]}


CASES = [
    (DetectionLoss(), detection_case),
    (ClassLoss(), class_case),
    (PaperDetectionLoss(), detection_case),
    (SegmentationLoss(), segmentation_case),
    (RegressionLoss(), regression_case),
]


def tiled(loss: TileLoss, maps: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, Tensor]:
    total = None
    for rows in (slice(0, 10), slice(10, 24)):
        for cols in (slice(0, 17), slice(17, 30)):
            part = loss.statistics(
                {k: v[..., rows, cols] for k, v in maps.items()},
                {k: v[..., rows, cols] for k, v in targets.items()},
            )
            total = part if total is None else total + part
    return loss.total(total, 2)


def test_a_config_can_name_every_loss():
    assert {type(loss).__name__ for loss, _ in CASES} == set(BUILTINS["losses"])


@pytest.mark.parametrize(("loss", "case"), CASES)
def test_tiles_give_the_whole_images_loss_and_gradient(loss: TileLoss, case):
    maps, targets = case()
    whole = loss.total(loss.statistics(maps, targets), 2)
    want = torch.autograd.grad(whole["loss"], list(maps.values()))
    parts = tiled(loss, maps, targets)
    got = torch.autograd.grad(parts["loss"], list(maps.values()))
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-5, atol=1e-6)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-8)


def flag_loss(logits: Tensor, target: Tensor, valid: Tensor, gamma: float, focal_weight: float) -> Tensor:
    keep = valid & (target != 255)
    p, y = logits[keep].sigmoid(), (target[keep] == 1).double()
    p_true = torch.where(y == 1, p, 1 - p)
    focal = (1 - p_true) ** gamma * -p_true.log()
    dice = 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
    return (-p_true.log() + focal_weight * focal).mean() + dice


def length_loss(maps: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    known = targets["valid"] & (targets["length"] > 0)
    return ((100 * maps["length"] - targets["length"]).abs() / targets["length"])[known].mean()


OTHERS = {"focal_weight": 2.0, "gamma": 1.5, "vessel_weight": 0.7, "fishing_weight": 0.4, "length_weight": 0.3}
"""Options that are not the defaults."""


def weights(options: dict[str, float], **defaults: float) -> dict[str, float]:
    return {name: options.get(f"{name}_weight", value) for name, value in defaults.items()}


def assert_parts(loss: TileLoss, want: dict[str, Tensor], weights: dict[str, float]):
    maps, targets = detection_case()
    got = loss.total(loss.statistics(maps, targets), 2)
    for name, value in want.items():
        torch.testing.assert_close(got[name].double(), value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got["loss"], sum(weights[name] * got[name] for name in weights))


@pytest.mark.parametrize("options", [{}, OTHERS | {"center_margin": 90.0, "center_weight": 1e-6}])
def test_the_paper_s_loss_equals_the_recipe_pixel_by_pixel(options: dict[str, float]):
    given = {"focal_weight": 3.0, "gamma": 2.0, "center_margin": 0.1, "center_weight": 3e-7} | options
    maps, targets = detection_case()
    want = {
        name: flag_loss(maps[name], targets[name], targets["valid"], given["gamma"], given["focal_weight"])
        for name in ("vessel", "fishing")
    }
    error = 255 * maps["center"] - targets["center"]
    squared = torch.where((error.abs() > given["center_margin"]) & targets["valid"], error**2, 0)
    want["center"] = given["center_weight"] * squared.sum((1, 2, 3)).mean()
    want["length"] = length_loss(maps, targets)
    assert_parts(PaperDetectionLoss(**options), want, weights(options, vessel=1, fishing=2, length=2) | {"center": 1})


@pytest.mark.parametrize("options", [{}, OTHERS | {"beta": 3.0, "center_weight": 0.6}])
def test_the_default_loss_equals_its_definition_pixel_by_pixel(options: dict[str, float]):
    gamma, beta, focal = (options.get(name, value) for name, value in (("gamma", 2), ("beta", 4), ("focal_weight", 3)))
    maps, targets = detection_case()
    valid = targets["valid"]
    asked = valid & (targets["vessel"] == 1) & (targets["fishing"] != 255)
    p, c = maps["center"].sigmoid(), targets["center"].double() / 255
    pixels = torch.where(c == 1, -((1 - p) ** gamma) * p.log(), -((1 - c) ** beta) * p**gamma * (1 - p).log())
    want = {
        "vessel": flag_loss(maps["vessel"], targets["vessel"], valid, gamma, focal),
        "fishing": F.binary_cross_entropy_with_logits(
            maps["fishing"][asked], (targets["fishing"][asked] == 1).double()
        ),
        "center": pixels[valid].sum() / (valid & (c == 1)).sum(),
        "length": length_loss(maps, targets),
    }
    assert_parts(DetectionLoss(**options), want, weights(options, vessel=1, fishing=1, center=1, length=0.5))


def test_the_loss_of_classes_equals_its_definition():
    maps, targets = class_case()
    loss = ClassLoss(2.0, 3.0)
    got = loss.total(loss.statistics(maps, targets), 2)
    known = (targets["kind"] != 255) & targets["valid"]
    logits = maps["kind"].movedim(1, -1)[known[:, 0]]
    want = F.cross_entropy(logits, targets["kind"][known].long())
    torch.testing.assert_close(got["kind"].double(), want, rtol=1e-5, atol=0)
    flags = {"vessel": targets["center"], "fishing": targets["center"], "length": targets["center"].double()}
    zeros = dict.fromkeys(flags, torch.zeros_like(maps["center"]))
    other = DetectionLoss()
    center = other.total(other.statistics({**zeros, **maps}, {**flags, **targets}), 2)["center"]
    torch.testing.assert_close(got["center"], center)
    torch.testing.assert_close(got["loss"], 2 * got["center"] + 3 * got["kind"])
    assert set(loss.biases()) == {"center"}


def test_the_center_s_loss_falls_towards_the_object():
    logits = torch.zeros(1, 1, 1, 3)
    maps = {name: logits.clone().requires_grad_() for name in ("center", "vessel", "fishing", "length")}
    targets = {name: torch.zeros(1, 1, 1, 3) for name in ("vessel", "fishing", "length")}
    targets |= {"center": torch.tensor([[[[255, 200, 0]]]]), "valid": torch.ones(1, 1, 1, 3, dtype=torch.bool)}
    loss = DetectionLoss()
    at, near, far = torch.autograd.grad(
        loss.total(loss.statistics(maps, targets), 2)["center"], maps["center"]
    )[0].flatten()  # fmt: skip
    assert at < 0 < near < far / 100


@pytest.mark.parametrize("delta", [1.0, 0.3])
def test_regression_equals_torch(delta: float):
    maps, targets = regression_case()
    loss = RegressionLoss(delta)
    got = loss.total(loss.statistics(maps, targets), 2)["loss"]
    known = targets["valid"].expand(-1, 3, -1, -1) & targets["value"].isfinite()
    parts = [
        F.huber_loss(maps["value"][:, i][known[:, i]], targets["value"][:, i][known[:, i]], delta=delta) for i in (0, 2)
    ]
    torch.testing.assert_close(got, torch.stack(parts).mean())
    (grad,) = torch.autograd.grad(got, maps["value"])
    assert grad.isfinite().all()
    assert torch.equal(grad != 0, known)
    with pytest.raises(ConfigError, match=r"loss\.init_args\.delta is 0; it must be above 0"):
        RegressionLoss(0)


def test_segmentation_equals_torch():
    maps, targets = segmentation_case()
    loss = SegmentationLoss(0.3, class_weights=[1.0, 2.0, 0.5])
    got = loss.total(loss.statistics(maps, targets), 2)
    mask = targets["mask"].masked_fill(~targets["valid"][:, 0], 255)
    want = F.cross_entropy(maps["mask"], mask, weight=torch.tensor([1.0, 2.0, 0.5]), ignore_index=255)
    torch.testing.assert_close(got["cross_entropy"], want)
    keep = mask != 255
    p = maps["mask"].softmax(1).movedim(1, -1)[keep]
    y = F.one_hot(mask[keep], 3)
    dice = 1 - ((2 * (p * y).sum(0) + 1) / (p.sum(0) + y.sum(0) + 1)).mean()
    torch.testing.assert_close(got["dice"], dice)
    torch.testing.assert_close(got["loss"], want + 0.3 * dice)


@pytest.mark.parametrize(("loss", "case"), CASES)
def test_nothing_to_score_gives_a_finite_loss_and_no_gradient(loss: TileLoss, case):
    maps, targets = case()
    targets["valid"] = torch.zeros_like(targets["valid"])
    result = loss.total(loss.statistics(maps, targets), 2)["loss"]
    assert result.isfinite()
    for grad in torch.autograd.grad(result, list(maps.values())):
        assert grad.abs().max() == 0


def test_heads_begin_with_what_is_believed_of_a_pixel():
    biases = {name: torch.tensor(value) for name, value in DetectionLoss().biases().items()}
    said = {name: float(100 * value if name == "length" else value.sigmoid()) for name, value in biases.items()}
    assert said == pytest.approx({"center": 0.01, "vessel": 0.01, "fishing": 0.25, "length": 60}, rel=1e-5)
    assert set(PaperDetectionLoss().biases()) == {"vessel", "fishing"}


@pytest.mark.parametrize("name", ["value", "mask"])
def test_sums_of_maps_in_bf16_are_in_single_precision(name: str):
    maps = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    loss = RegressionLoss() if name == "value" else SegmentationLoss()
    known = torch.zeros(1, 3, 16, 16) if name == "value" else torch.ones(1, 16, 16, dtype=torch.int64)
    targets = {name: known, "valid": torch.ones(1, 1, 16, 16, dtype=torch.bool)}
    found, want = (loss.statistics({name: each}, targets) for each in (maps, maps.float()))
    assert found.dtype == torch.float32
    assert torch.equal(found, want)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (
            lambda: SegmentationLoss(class_weights=[1.0, -1.0]),
            r"class_weights is \[1.0, -1.0\]; give numbers from 0 on",
        ),
        (lambda: SegmentationLoss(class_weights=[1.0, float("nan")]), "class_weights is"),
        (lambda: SegmentationLoss(class_weights=[1.0, float("inf")]), "class_weights is"),
        (lambda: SegmentationLoss(class_weights=[0.0, 0.0]), "not all of them 0"),
        (lambda: SegmentationLoss(class_weights=[]), "class_weights is"),
        (lambda: SegmentationLoss(float("nan")), "loss.init_args.dice_weight is nan; it must be at least 0"),
        (lambda: DetectionLoss(length_weight=-1.0), "length_weight is -1.0"),
        (lambda: ClassLoss(class_weight=-1.0), "class_weight is -1.0"),
        (lambda: PaperDetectionLoss(gamma=-1.0), "gamma is -1.0"),
        (lambda: RegressionLoss(float("nan")), "delta is nan"),
        (lambda: ImageClassification(1.5), "label_smoothing is 1.5; give one from 0 to 1"),
        (lambda: PointDetection(token_weight=-1.0), "token_weight is -1.0"),
    ],
)
def test_weights_that_are_none_are_refused(build: Callable[[], object], said: str):
    with pytest.raises(ConfigError, match=said):
        build()


def test_a_weight_for_each_class():
    loss = SegmentationLoss(class_weights=[0.2, 2.0, 2.0])
    loss.check(["land", "water", "ice"])
    said = r"loss.init_args.class_weights has 3 numbers for 2 classes \(land, water\); give one for each"
    with pytest.raises(ConfigError, match=said):
        loss.check(["land", "water"])
    data: Any = SimpleNamespace(gives="mask", classes=("land", "water"), ignore_index=255)
    with pytest.raises(ConfigError, match=said):  # before a step is taken
        SemanticSegmentation(loss).adopt(data)
