"""Window attention in operations that every runtime has, all windows at once: for models that are exported."""

import torch
import torch.nn.functional as F
from torch import Tensor

from xt_kernels.dispatch import Backend
from xt_kernels.window_attention.reference import SMALLEST_NORM


def window_attention(qkv: Tensor, scale: Tensor, bias: Tensor, masks: Tensor | None, kinds: Tensor | None) -> Tensor:
    """Same as :func:`xt_kernels.window_attention.reference.window_attention`."""
    dtype = torch.promote_types(qkv.dtype, torch.float32)
    q, k, v = qkv.to(dtype).permute(2, 0, 3, 1, 4)
    q, k = (F.normalize(each, dim=-1, eps=SMALLEST_NORM) for each in (q, k))
    logits = scale.to(dtype)[:, None, None] * (q @ k.transpose(-1, -2)) + bias.to(dtype)
    if masks is not None and kinds is not None:
        every = torch.cat([torch.zeros_like(masks[:1]), masks]).to(dtype)
        added = every[kinds.long()].unsqueeze(1)
        logits = (logits.view(-1, len(kinds), *logits.shape[1:]) + added).flatten(0, 1)
    mixed: Tensor = logits.softmax(-1) @ v
    return mixed.transpose(1, 2).contiguous().to(qkv.dtype)


BACKEND = Backend(window_attention)
