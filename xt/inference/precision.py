"""Arithmetic in bfloat16: what the model's stages compute within, while what they hand on stays float32."""

from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import nn

Precision = Literal["fp32", "bf16"]


def computing(precision: Precision, model: nn.Module) -> AbstractContextManager[object]:
    """Compute matrix products, convolutions and the operations of ``xt_kernels`` as ``bf16-mixed`` trains them.

    Args:
        precision: ``fp32`` leaves everything as it is.
        model: The model, on its device.
    """
    device = next(model.parameters()).device.type
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")
