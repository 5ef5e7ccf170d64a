"""What is measured of tokens alone."""

from types import SimpleNamespace

import pytest
import torch

from xt.losses.tokens import TokenLoss
from xt.tasks.tokens import TokenDetection


def test_cells_that_were_asked_for_and_seen_are_scored():
    task = TokenDetection()
    task.token_loss = TokenLoss(1, 32)
    with torch.no_grad():
        task.token_loss.head.weight.fill_(1.0)
        task.token_loss.head.bias.zero_()
    model = SimpleNamespace(
        region_size=64,
        region_encoder=SimpleNamespace(strides=(4, 32)),
        mix_features=lambda tokens, grid, exists: tokens,
    )
    said = torch.tensor([[1.0, 1, -1, -1], [1, 1, -1, -1]])  # above 0 is said to fish
    true = torch.tensor([[1.0, 0, 1, 0], [1, 1, 1, 1]])
    asked = torch.tensor([[1.0, 1, 1, 0], [1, 1, 1, 1]])
    seen = torch.tensor([[1.0, 1, 1, 1], [0, 0, 1, 1]])
    cells = {"fishing": true, "asked": asked, "seen": seen}
    batch = {"tokens": said[None, None], "exists": torch.ones(1, 1, 2, dtype=torch.bool)}
    batch["cells"] = {name: each[None, None] for name, each in cells.items()}
    for _ in range(2):
        task.measure(model, batch)
        # Said and true of what is asked and seen: 1 1, 1 0, 0 1, and in the second row 0 1 twice.
        assert task.scores(None, tune=False) == {
            "fishing_f1": pytest.approx(2 * 1 / (2 + 4)),
            "accuracy": pytest.approx(1 / 5),
            "all_fishing_f1": pytest.approx(2 * 4 / (5 + 4)),
        }
