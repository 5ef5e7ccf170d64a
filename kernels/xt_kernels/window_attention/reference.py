"""Window attention from its definition: the oracle. Never optimised."""

import torch
from torch import Tensor

from xt_kernels.dispatch import Backend

SMALLEST_NORM = 1e-12


def window_attention(qkv: Tensor, scale: Tensor, bias: Tensor, masks: Tensor | None, kinds: Tensor | None) -> Tensor:
    """Attend inside each window.

    Args:
        qkv: ``(W, N, 3, H, D)``.
        scale: ``(H,)``.
        bias: ``(H, N, N)``.
        masks: ``(K, N, N)``, added to the logits.
        kinds: ``(M,)`` of integers; window w has ``masks[kinds[w % M] - 1]``, or none where that kind is 0.

    Returns:
        ``(W, N, H, D)``.
    """
    check_kinds(masks, kinds)
    dtype = torch.promote_types(qkv.dtype, torch.float32)
    windows = []
    for w, window in enumerate(qkv.to(dtype)):
        heads = []
        for h in range(qkv.shape[3]):
            q, k, v = window[:, :, h].unbind(1)
            q, k = (x / x.norm(dim=1, keepdim=True).clamp(min=SMALLEST_NORM) for x in (q, k))
            logits = scale[h].to(dtype) * (q @ k.T) + bias[h].to(dtype)
            kind = 0 if kinds is None else int(kinds[w % len(kinds)])
            if masks is not None and kind:
                logits = logits + masks[kind - 1].to(dtype)
            heads.append(torch.softmax(logits, 1) @ v)
        windows.append(torch.stack(heads, 1))
    return torch.stack(windows).to(qkv.dtype)


def check_kinds(masks: Tensor | None, kinds: Tensor | None) -> None:
    """Check that there is a mask for every kind, without which a kernel would read other memory.

    Raises:
        ValueError: If there is none.
    """
    if masks is not None and kinds is not None:
        wrong = kinds[(kinds < 0) | (kinds > len(masks))]
        if len(wrong):
            raise ValueError(f"window_attention: kinds holds {wrong[0]}; there are masks for 1 to {len(masks)}")


BACKEND = Backend(window_attention)
