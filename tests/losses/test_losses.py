import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from xt.losses.base import TileLoss
from xt.losses.detection import DetectionLoss
from xt.losses.segmentation import SegmentationLoss


def detection_case() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    g = torch.Generator().manual_seed(0)
    maps = {
        n: torch.randn(2, 1, 24, 30, generator=g, dtype=torch.float64).requires_grad_()
        for n in ("center", "vessel", "fishing", "length")
    }
    flags = torch.tensor([0, 1, 255])
    targets = {n: flags[torch.randint(3, (2, 1, 24, 30), generator=g)].to(torch.uint8) for n in ("vessel", "fishing")}
    targets["center"] = torch.randint(256, (2, 1, 24, 30), generator=g).to(torch.uint8)
    targets["length"] = torch.tensor([-1.0, 0.0, 55.0])[torch.randint(3, (2, 1, 24, 30), generator=g)]
    targets["valid"] = torch.rand(2, 1, 24, 30, generator=g) > 0.2
    return maps, targets


def segmentation_case() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    g = torch.Generator().manual_seed(0)
    maps = {"mask": torch.randn(2, 3, 24, 30, generator=g).requires_grad_()}
    mask = torch.tensor([0, 1, 2, 255])[torch.randint(4, (2, 24, 30), generator=g)]
    return maps, {"mask": mask, "valid": torch.rand(2, 1, 24, 30, generator=g) > 0.2}


def tiled(loss: TileLoss, maps: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, Tensor]:
    total = None
    for rows in (slice(0, 10), slice(10, 24)):
        for cols in (slice(0, 17), slice(17, 30)):
            part = loss.statistics(
                {k: v[..., rows, cols] for k, v in maps.items()},
                {k: v[..., rows, cols] for k, v in targets.items()},
            )
            total = part if total is None else total + part
    return loss.total(total)


@pytest.mark.parametrize(("loss", "case"), [(DetectionLoss(), detection_case), (SegmentationLoss(), segmentation_case)])
def test_tiles_give_the_whole_images_loss_and_gradient(loss: TileLoss, case):
    maps, targets = case()
    whole = loss.total(loss.statistics(maps, targets))
    want = torch.autograd.grad(whole["loss"], list(maps.values()))
    parts = tiled(loss, maps, targets)
    got = torch.autograd.grad(parts["loss"], list(maps.values()))
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-5, atol=1e-6)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-8)


def test_detection_equals_the_recipe_pixel_by_pixel():
    maps, targets = detection_case()
    loss = DetectionLoss()
    got = loss.total(loss.statistics(maps, targets))
    valid = targets["valid"]
    for name in ("vessel", "fishing"):
        keep = valid & (targets[name] != 255)
        x, y = maps[name][keep], (targets[name][keep] == 1).double()
        p = x.sigmoid()
        p_true = torch.where(y == 1, p, 1 - p)
        bce = -p_true.log().mean()
        focal = ((1 - p_true) ** 2 * -p_true.log()).mean()
        dice = 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
        torch.testing.assert_close(got[name].double(), bce + 3 * focal + dice, rtol=1e-4, atol=1e-5)
    error = (255 * maps["center"] - targets["center"])[valid]
    torch.testing.assert_close(
        got["center"].double(), torch.where(error.abs() > 0.1, error**2, 0).mean(), rtol=1e-4, atol=1e-5
    )
    known = valid & (targets["length"] > 0)
    relative = ((100 * maps["length"] - targets["length"]).abs() / targets["length"])[known].mean()
    torch.testing.assert_close(got["length"].double(), relative, rtol=1e-4, atol=1e-5)
    want = got["vessel"] + 2 * got["fishing"] + 5 * got["center"] + 2 * got["length"]
    torch.testing.assert_close(got["loss"], want)


def test_segmentation_equals_torch():
    maps, targets = segmentation_case()
    loss = SegmentationLoss(class_weights=[1.0, 2.0, 0.5])
    got = loss.total(loss.statistics(maps, targets))
    mask = targets["mask"].masked_fill(~targets["valid"][:, 0], 255)
    want = F.cross_entropy(maps["mask"], mask, weight=torch.tensor([1.0, 2.0, 0.5]), ignore_index=255)
    torch.testing.assert_close(got["cross_entropy"], want)
    keep = mask != 255
    p = maps["mask"].softmax(1).movedim(1, -1)[keep]
    y = F.one_hot(mask[keep], 3)
    dice = 1 - ((2 * (p * y).sum(0) + 1) / (p.sum(0) + y.sum(0) + 1)).mean()
    torch.testing.assert_close(got["dice"], dice)


@pytest.mark.parametrize(("loss", "case"), [(DetectionLoss(), detection_case), (SegmentationLoss(), segmentation_case)])
def test_nothing_to_score_gives_a_finite_loss_and_no_gradient(loss: TileLoss, case):
    maps, targets = case()
    targets["valid"] = torch.zeros_like(targets["valid"])
    result = loss.total(loss.statistics(maps, targets))["loss"]
    assert result.isfinite()
    for grad in torch.autograd.grad(result, list(maps.values())):
        assert grad.abs().max() == 0
