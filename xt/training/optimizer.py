"""AdamW with warm-up and a cosine, and which parameters it decays."""

import math
from typing import Any

import torch
from torch import nn

from xt.models.xt import XT


def parameter_groups(module: nn.Module, model: XT, weight_decay: float) -> list[dict[str, Any]]:
    """Part the trained parameters: those that are decayed, and biases, norms and what the model names.

    Args:
        module: Holds the model and what is trained beside it.
        model: Names parameters in :meth:`XT.no_weight_decay`.
        weight_decay: Of the first group.
    """
    named = dict(model.named_parameters())
    spared = {id(named[name]) for name in model.no_weight_decay()}
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    decayed = [each for each in trained if each.ndim > 1 and id(each) not in spared]
    rest = [each for each in trained if each.ndim <= 1 or id(each) in spared]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def optimization(groups: list[dict[str, Any]], lr: float, warmup_steps: int, total: int) -> dict[str, Any]:
    """What ``configure_optimizers`` returns.

    Args:
        groups: Of :func:`parameter_groups`.
        lr: Highest learning rate.
        warmup_steps: Steps over which it rises; it then falls to 0 along a cosine.
        total: Steps in all.
    """
    optimizer = torch.optim.AdamW(groups, lr=lr)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        done = (step - warmup_steps) / max(total - warmup_steps, 1)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
