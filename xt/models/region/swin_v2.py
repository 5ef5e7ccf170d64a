"""Swin Transformer V2 of timm, faster: the same parameters, the same results.

Attention goes through :func:`xt_kernels.window_attention.window_attention`, and on a CPU without gradients a block is
worked on some windows at a time, so that what lies between its layers stays in the cache of a core.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.swin_transformer_v2 import SwinTransformerV2Block, WindowAttention, window_partition, window_reverse
from torch import Tensor
from torch.autograd.function import FunctionCtx

from xt.models.linear import linear
from xt_kernels.window_attention import window_attention

TOKENS = 4096
"""Tokens of a block worked on at a time without gradients, about."""
LARGEST_SCALE = math.log(1 / 0.01)


class Attention(WindowAttention):  # type: ignore[misc]
    """timm's layer with fused attention."""

    def attend(self, x: Tensor, bias: Tensor, masks: Tensor | None, kinds: Tensor | None) -> Tensor:
        """Attend inside windows ``(W, N, C)``; the rest as :func:`xt_kernels.window_attention.window_attention`."""
        windows, tokens, channels = x.shape
        offset = None if self.q_bias is None else torch.cat((self.q_bias, self.k_bias, self.v_bias))
        qkv = linear(x, self.qkv.weight, offset).view(windows, tokens, 3, self.num_heads, -1)
        scale = self.logit_scale.clamp(max=LARGEST_SCALE).exp().flatten()
        mixed = window_attention(qkv, scale, bias, masks, kinds)
        out: Tensor = self.proj_drop(self.proj(mixed.view(windows, tokens, channels)))
        return out

    def position_bias(self) -> Tensor:
        """``(H, N, N)``; without gradients computed again only when its parameters or the precision have changed."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._position_bias()
        used = [*self.cpb_mlp.parameters(), self.relative_coords_table]
        state: list[Any] = [(each.data_ptr(), each._version, each.dtype) for each in used]
        kind = self.relative_coords_table.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            state.append(torch.get_autocast_dtype(kind))
        known: tuple[list[Tensor], list[Any], Tensor] | None = self.__dict__.get("_known_bias")
        if known is None or known[1] != state:
            known = self.__dict__["_known_bias"] = (used, state, self._position_bias())
        return known[2]

    def _position_bias(self) -> Tensor:
        tokens = self.window_size[0] * self.window_size[1]
        table = 16 * torch.sigmoid(self.cpb_mlp(self.relative_coords_table).view(-1, self.num_heads))
        places = self.relative_position_index.view(-1)
        if table.device.type == "cpu":
            return table.mT.contiguous().index_select(1, places).view(-1, tokens, tokens)
        # On a GPU the gradient of an embedding is the one that repeats bit for bit.
        return F.embedding(places, table).view(tokens, tokens, -1).permute(2, 0, 1).contiguous()


class Block(SwinTransformerV2Block):  # type: ignore[misc]
    """timm's block; on a CPU and without gradients some windows at a time."""

    attn: Attention

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``(B, H, W, C)``."""
        elsewhere = x.device.type != "cpu" or torch.compiler.is_compiling()
        if torch.is_grad_enabled() or elsewhere or self._padded(x) or self._random():
            out: Tensor = super().forward(x)
            return out
        return torch.stack([self._by_windows(image) for image in x])

    def _attn(self, x: Tensor) -> Tensor:
        if self.training and self.attn.attn_drop.p:
            dropped: Tensor = super()._attn(x)
            return dropped
        if torch.compiler.is_compiling() or self._padded(x):
            return self._attn_of_any_size(x)
        kind = x.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))  # as the first layer would: half as much to move
        there, back = self._places(x)
        windows = _Moved.apply(x.flatten(1, 2), there, back).view(-1, math.prod(self.window_size), x.shape[-1])
        mixed = self.attn.attend(windows, self.attn.position_bias(), *self._masks(x))
        out: Tensor = _Moved.apply(mixed.view(x.shape[0], -1, x.shape[-1]), back, there)
        return out.view_as(x)

    def _attn_of_any_size(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        (h, w), (down, right) = self.window_size, self.shift_size
        x = F.pad(x.roll((-down, -right), (1, 2)), (0, 0, 0, -width % w, 0, -height % h))
        padded = x.shape[1:3]
        windows = window_partition(x, self.window_size).flatten(1, 2)
        mixed = self.attn.attend(windows, self.attn.position_bias(), *self._masks(x))
        x = window_reverse(mixed.view(-1, h, w, mixed.shape[-1]), self.window_size, padded)
        return x[:, :height, :width].roll((down, right), (1, 2))

    def _by_windows(self, image: Tensor) -> Tensor:
        tokens, channels = math.prod(self.window_size), image.shape[-1]
        rows = self._places(image[None])[0].view(-1, tokens)
        bias, (masks, kinds) = self.attn.position_bias(), self._masks(image[None])
        flat, out = image.reshape(-1, channels), torch.empty_like(image).view(-1, channels)
        step = max(1, TOKENS // tokens)
        for start in range(0, len(rows), step):
            chosen = rows[start : start + step]
            part = flat.index_select(0, chosen.view(-1))
            kind = None if kinds is None else kinds[start : start + step]
            mixed = self.attn.attend(part.view(-1, tokens, channels), bias, masks, kind)
            part += self.norm1(mixed.view(-1, channels))
            part += self.norm2(self.mlp(part))
            out.index_copy_(0, chosen.view(-1), part)
        return out.view_as(image)

    def _padded(self, x: Tensor) -> bool:
        return any(side % window for side, window in zip(x.shape[1:3], self.window_size, strict=True))

    def _places(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The token at each place of the windows, and the place of each token; kept for the last size."""
        key = x.shape[1:3], x.device
        known: tuple[Any, Tensor, Tensor] | None = self.__dict__.get("_known_places")
        if known is None or known[0] != key:
            with torch.inference_mode(False):  # training may use what validation has made
                there = self._order(*key)
                known = self.__dict__["_known_places"] = (key, there, there.argsort())
        return known[1:]

    def _random(self) -> bool:
        dropped = (getattr(module, "p", 0) or getattr(module, "drop_prob", 0) for module in self.modules())
        return self.training and any(dropped)

    def _masks(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Masks ``(3, N, N)`` of shifted windows and which of them each has: 0, none, but in the last row or column."""
        masks: Tensor | None = self.get_attn_mask(x) if getattr(self, "dynamic_mask", False) else self.attn_mask
        if masks is None:
            return None, None
        rows, cols = (side // window for side, window in zip(x.shape[1:3], self.window_size, strict=True))
        down, right = (torch.arange(num, device=x.device) == num - 1 for num in (rows, cols))
        kinds = (down[:, None] + 2 * right).flatten()
        return torch.stack([masks[cols * (rows - 1)], masks[cols - 1], masks[-1]]), kinds

    def _order(self, size: tuple[int, ...], device: torch.device) -> Tensor:
        """Rows of the flat image, window by window."""
        (height, width), (h, w) = size, self.window_size
        rows = torch.arange(height * width, device=device).view(height, width)
        rows = rows.roll((-self.shift_size[0], -self.shift_size[1]), (0, 1))
        return rows.view(height // h, h, width // w, w).transpose(1, 2).flatten()


class _Moved(torch.autograd.Function):
    """Rows ``(B, n, C)`` in another order, and their gradients back, each in one copy."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(there, back)
        return x.index_select(1, there)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        there, back = ctx.saved_tensors  # type: ignore[attr-defined]
        moved: Tensor = _Moved.apply(grad, back, there)
        return moved, None, None
