import torch
import torch.nn.functional as F

from xt.losses.tokens import ClassTokenLoss, TokenLoss

STRIDE = 4


def case() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Three vessels (fishing, not, unknown) and a structure on 10 × 13 px: 3 × 4 cells, the last ones cut off."""
    flags = {name: torch.zeros(1, 1, 10, 13, dtype=torch.uint8) for name in ("center", "vessel", "fishing")}
    for row, col, vessel, fishing in ((1, 2, 1, 1), (5, 6, 1, 0), (9, 12, 1, 255), (2, 9, 0, 0)):
        flags["center"][0, 0, row, col] = 255
        flags["center"][0, 0, row, col - 1] = 200
        flags["vessel"][0, 0, row, col - 1 : col + 2] = vessel
        flags["fishing"][0, 0, row, col - 1 : col + 2] = fishing
    valid = torch.ones(1, 1, 10, 13, dtype=torch.bool)
    valid[..., 4:8, 0:4] = False
    flags["center"][0, 0, 1, 12], flags["vessel"][0, 0, 1, 12], valid[..., 1, 12] = 255, 1, False  # not seen
    return torch.randn(1, 5, 3, 4, generator=torch.Generator().manual_seed(0)), flags | {"valid": valid}


def test_equals_its_definition_cell_by_cell():
    torch.manual_seed(0)
    loss = TokenLoss(5, STRIDE, weight=2.0, positive_weight=7.0)
    mixed, targets = case()
    vessel, fishing = loss.head(mixed)[0]
    total = weights = 0.0
    for row in range(3):
        for col in range(4):
            if (row, col) == (1, 0):
                continue  # not a valid pixel
            holds = (row, col) in ((0, 0), (1, 1), (2, 3))
            weight = 7.0 if holds else 1.0
            total += weight * F.binary_cross_entropy_with_logits(vessel[row, col], torch.tensor(float(holds)))
            weights += weight
    asked = torch.stack([fishing[0, 0], fishing[1, 1]])
    want = total / weights + F.binary_cross_entropy_with_logits(asked, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(loss.total(loss.statistics(mixed, targets)), 2.0 * want)


def test_without_a_valid_pixel_there_is_no_loss_and_no_gradient():
    loss = TokenLoss(5, STRIDE)
    mixed, targets = case()
    mixed.requires_grad_()
    value = loss.total(loss.statistics(mixed, targets | {"valid": torch.zeros_like(targets["valid"])}))
    assert value == 0
    assert torch.autograd.grad(value, mixed)[0].abs().max() == 0


def test_cells_that_are_not_seen_teach_nothing():
    loss, (mixed, _) = TokenLoss(5, STRIDE), case()
    ones = torch.ones(1, 1, 3, 4)
    cells = dict.fromkeys(("holds", "asked", "fishing", "seen"), ones)
    assert (loss.of_cells(mixed, cells | {"seen": 0 * ones}) == 0).all()
    half = loss.of_cells(mixed, cells | {"seen": torch.cat([ones[:, :, :1], 0 * ones[:, :, 1:]], 2)})
    torch.testing.assert_close(
        half, loss.of_cells(mixed[:, :, :1], {name: each[:, :, :1] for name, each in cells.items()})
    )


def test_classes_of_cells_equal_their_definition():
    torch.manual_seed(0)
    loss = ClassTokenLoss(5, STRIDE, 3, weight=2.0, positive_weight=7.0)
    mixed, targets = case()
    kind = torch.full((1, 1, 10, 13), 255, dtype=torch.uint8)
    for row, col, number in ((1, 2, 2), (1, 0, 1), (5, 6, 0), (2, 9, 255), (1, 12, 1)):  # two in the first cell
        kind[0, 0, row, col] = number
        targets["center"][0, 0, row, col] = 255
    targets = {"center": targets["center"], "kind": kind, "valid": targets["valid"]}
    said = loss.head(mixed)[0]
    total = weights = 0.0
    for row in range(3):
        for col in range(4):
            if (row, col) == (1, 0):
                continue  # not a valid pixel
            holds = (row, col) in ((0, 0), (1, 1), (2, 3), (0, 2))
            weight = 7.0 if holds else 1.0
            total += weight * F.binary_cross_entropy_with_logits(said[0, row, col], torch.tensor(float(holds)))
            weights += weight
    classes = torch.stack([said[1:, 0, 0], said[1:, 1, 1]])
    want = total / weights + F.cross_entropy(classes, torch.tensor([2, 0]))
    torch.testing.assert_close(loss.total(loss.statistics(mixed, targets)), 2.0 * want)
    nothing = loss.total(loss.statistics(mixed, targets | {"valid": torch.zeros_like(targets["valid"])}))
    assert nothing == 0
