"""Arithmetic in bfloat16: what the model's stages compute within, while what they hand on stays float32."""

import functools
import warnings
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import nn

from xt.errors import XTWarning
from xt.models.work import device_of

Precision = Literal["fp32", "bf16"]

_INSTRUCTIONS = "avx512bf16", "amx-bf16", "avxneconvert", "bf16"
"""Features of processors that multiply in bfloat16, by LLVM's names; the last is Arm's."""


def computing(precision: Precision, model: nn.Module) -> AbstractContextManager[object]:
    """Compute matrix products, convolutions and the operations of ``xt_kernels`` as ``bf16-mixed`` trains them.

    Args:
        precision: ``fp32`` leaves everything as it is. ``bf16`` warns where the device has no instructions for it.
        model: The model, on its device.
    """
    device = device_of(model).type
    if precision == "bf16":
        _warn_if_slow(device)
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")


@functools.cache
def _warn_if_slow(device: str) -> None:
    # Cached, so that it is said once in a process. A product of matrices takes twice as long without them on a CPU with
    # AVX-512, and a convolution some hundred times as long with AVX2.
    if device == "cpu":
        import llvmlite.binding as llvm  # here, since only this needs it

        features = llvm.get_host_cpu_features()
        fast = any(features.get(name) for name in _INSTRUCTIONS)
    else:
        fast = device != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if not fast:
        text = f"this {device} has no instructions for bfloat16, so bf16 takes many times as long; fp32 is faster"
        warnings.warn(text, XTWarning, stacklevel=4)
