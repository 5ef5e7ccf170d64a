"""Window attention beside its peers, as the first stage of SwinV2-T calls it: shifted windows of 16 × 16, 3 heads.

``published`` is the form of timm and of the authors' code: all logits of all windows, with a mask for each.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from xt.analysis.bench.peers import Inputs, Op, Peer
from xt_kernels.window_attention import window_attention

SIDE, HEADS, DIM = 16, 3, 32
MASKED = -100.0


def published(qkv: Tensor, scale: Tensor, bias: Tensor, masks: Tensor, kinds: Tensor) -> Tensor:
    """Attend as timm does."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    logits = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * scale[:, None, None] + bias
    every = torch.cat([torch.zeros_like(masks[:1]), masks])[kinds]
    windows, heads, tokens, _ = logits.shape
    logits = logits.view(-1, len(kinds), heads, tokens, tokens) + every[:, None]
    mixed: Tensor = logits.view(windows, heads, tokens, tokens).softmax(-1) @ v
    return mixed.transpose(1, 2)


def peers(device: str) -> dict[str, Peer]:
    """Name what is compared on a device."""
    oracle = partial(window_attention, backend="reference")
    found = {}
    for backend in ("triton" if device == "cuda" else "numba", "blocked"):
        found[backend] = Peer(partial(window_attention, backend=backend), True, oracle)
    found["reference"] = Peer(oracle, True)
    found["published"] = Peer(published, oracle=oracle)
    return found


def draw(tokens: int, dtype: torch.dtype, device: str, side: int = SIDE, heads: int = HEADS, dim: int = DIM) -> Inputs:
    """Draw ``qkv, scale, bias, masks, kinds`` of windows in a map near to a square; fewer tokens fill one window."""
    windows = max(1, tokens // side**2)
    rows = next(n for n in range(math.isqrt(windows), 0, -1) if windows % n == 0)
    g = torch.Generator().manual_seed(windows)
    qkv = torch.randn(windows, side**2, 3, heads, dim, generator=g)
    scale = 5 + 5 * torch.rand(heads, generator=g)
    bias = torch.randn(heads, side**2, side**2, generator=g)
    down, right = (torch.arange(num) == num - 1 for num in (rows, windows // rows))
    kinds = (down[:, None] + 2 * right).flatten()
    floats = (each.to(device, dtype) for each in (qkv, scale, bias, _masks(side)))
    return (*floats, kinds.to(device))


def _masks(side: int) -> Tensor:
    """Masks ``(3, N, N)`` of the last row, the last column and the corner: their halves do not see each other."""
    row, col = (each.flatten() < side // 2 for each in torch.meshgrid(*[torch.arange(side)] * 2, indexing="ij"))
    apart = [half[:, None] != half for half in (row, col)]
    return MASKED * torch.stack([*apart, apart[0] | apart[1]]).float()


def small(dtype: torch.dtype, device: str) -> Inputs:
    """Six windows of 4 × 4 tokens."""
    return draw(6 * 16, dtype, device, 4, 2, 16)


def work(peer: str, tokens: int, itemsize: int, backward: bool) -> float:
    """FLOP of the products: two forward, five more backward."""
    return 2.0 * HEADS * DIM * max(tokens, SIDE**2) * SIDE**2 * (7 if backward else 2)


SHAPE = f"tokens in shifted windows of {SIDE} × {SIDE}, {HEADS} heads × {DIM} channels"
OP = Op(SHAPE, "gemm", draw, small, peers, work, learned=3)
