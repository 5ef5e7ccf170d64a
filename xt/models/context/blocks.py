"""LLaMA-style blocks that the attention encoders share: RMSNorm, attention, gated MLP."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xt.errors import ModelError

INNER = {"cpu": 2**22, "cuda": 2**26}
"""Inner channels of all tokens that the MLP works on at a time. On a CPU 16 MiB of fp32: glibc keeps such blocks, where
larger ones come as fresh pages that the kernel clears each time."""
AttentionFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``q (B, H, L, D)``, ``k`` and ``v`` ``(B, H, S, D)`` → ``(B, H, L, D)``."""


class Attention(nn.Module):
    """Multi-head attention with a joint projection.

    Args:
        dim: Channels of a token.
        head_dim: Channels of a head.

    Raises:
        ModelError: If heads do not divide the channels.
    """

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        if dim % head_dim:
            raise ModelError(f"context_dim {dim} does not divide by head_dim {head_dim}; change one of them")
        self.head_dim = head_dim
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, memory: Tensor | None, attend: AttentionFunction) -> Tensor:
        """Let ``x (B, L, D)`` attend to ``memory (B, M, D)``, if any, and to itself."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if memory is not None:
            dim = x.shape[-1]
            past = F.linear(memory, self.qkv.weight[dim:], self.qkv.bias[dim:])
            past_k, past_v = past.chunk(2, dim=-1)
            k, v = torch.cat([past_k, k], 1), torch.cat([past_v, v], 1)
        heads = (rearrange(each, "b l (h d) -> b h l d", d=self.head_dim) for each in (q, k, v))
        mixed: Tensor = self.proj(rearrange(attend(*heads), "b h l d -> b l (h d)"))
        return mixed


class GatedMLP(nn.Module):
    """``down(GELU(gate(x)) · up(x))`` without biases.

    Args:
        dim: Channels of a token.
        ratio: Inner width over ``dim``.
        activation: Of the gate, GELU by default.
    """

    def __init__(self, dim: int, ratio: float, activation: Callable[[Tensor], Tensor] = F.gelu) -> None:
        super().__init__()
        self.activation = activation
        inner = int(dim * ratio)
        self.gate_proj = nn.Linear(dim, inner, bias=False)
        self.up_proj = nn.Linear(dim, inner, bias=False)
        self.down_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, L, D)`` to ``(B, L, D)``."""
        out: Tensor = self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
        return out


class MLP(nn.Module):
    """``down(GELU(up(x)))``.

    Args:
        dim: Channels of a token.
        ratio: Inner width over ``dim``.
    """

    def __init__(self, dim: int, ratio: float) -> None:
        super().__init__()
        self.up_proj = nn.Linear(dim, int(dim * ratio))
        self.down_proj = nn.Linear(int(dim * ratio), dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, L, D)`` to ``(B, L, D)``."""
        out: Tensor = self.down_proj(F.gelu(self.up_proj(x)))
        return out


class BlockParts(nn.Module):
    """What pre-norm attention and MLP are made of; named as in the released checkpoints.

    Args:
        dim: Channels of a token.
        head_dim: Channels of a head.
        mlp_ratio: Inner width of the MLP over ``dim``.
    """

    def __init__(self, dim: int, head_dim: int, mlp_ratio: float) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(dim, eps=1e-5)
        self.attn = Attention(dim, head_dim)
        self.post_attention_layernorm = nn.RMSNorm(dim, eps=1e-5)
        self.mlp = GatedMLP(dim, mlp_ratio)


class AttentionBlock(BlockParts):
    """Pre-norm attention and MLP, each with a residual; arguments of :class:`BlockParts`."""

    def forward(self, x: Tensor, memory: Tensor | None, attend: AttentionFunction) -> Tensor:
        """Mix ``x (B, L, D)``, which also sees the hidden states ``memory (B, M, D)`` of this layer.

        In training both halves are computed again in backward, the MLP piece by piece, so that no more than one piece's
        inner channels live at a time.
        """
        recompute = self.training
        x = recomputed(recompute, self._mix, x, memory, attend)
        size = self._piece(x)
        if x.shape[1] <= size:
            whole: Tensor = recomputed(recompute, self._transform, x)
            return whole
        return torch.cat([recomputed(recompute, self._transform, piece) for piece in torch.split(x, size, 1)], 1)

    def _mix(self, x: Tensor, memory: Tensor | None, attend: AttentionFunction) -> Tensor:
        past = None if memory is None else self.input_layernorm(memory)
        out: Tensor = x + self.attn(self.input_layernorm(x), past, attend)
        return out

    def _transform(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out

    def _piece(self, x: Tensor) -> int:
        """Tokens of a piece; all when a compiler looks on, which knows how to fuse."""
        if torch.compiler.is_compiling():
            return x.shape[1]
        return max(1, INNER.get(x.device.type, INNER["cuda"]) // (x.shape[0] * self.mlp.gate_proj.out_features))


def recomputed(recompute: bool, function: Callable[..., Any], *arguments: object) -> Any:
    """Call a function, and with ``recompute`` again in backward, instead of keeping its activations."""
    if not (recompute and torch.is_grad_enabled()):
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False)


def block_values(mlp_ratio: float) -> float:
    """Values that a block holds at once for each channel of a token: those of its MLP, or of attention if more."""
    return max(16.0, 3 * mlp_ratio + 4)
