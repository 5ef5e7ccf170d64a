"""The equations of the papers, token by token, on the parameters of a module: slow, and independent of its code."""

import math
from collections.abc import Callable, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from xt.geometry.grid import TokenLayout

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``q (H, L, d)``, ``k`` and ``v`` ``(H, S, d)`` → ``(H, L, d)``."""


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter, norms and biases too, values that hide nothing, in fp64."""
    g = torch.Generator().manual_seed(seed)
    module = module.double()
    with torch.no_grad():
        for name, p in module.named_parameters():
            noise = torch.randn(p.shape, generator=g, dtype=torch.float64)
            if name.endswith("A_log"):
                p.add_(0.3 * noise)
            elif p.ndim == 1:
                p.copy_(0.5 * noise + (0.0 if "bias" in name else 1.0))
            else:
                p.copy_(noise / math.prod(p.shape[1:]) ** 0.5)
    return module


def agree(
    module: nn.Module,
    reference: Callable[[Tensor], Tensor],
    run: Callable[[Tensor], Tensor],
    tokens: Tensor,
    tolerance: float = 1e-9,
) -> None:
    """Check outputs and the gradients to the tokens and to every parameter."""
    out, want = run(tokens), reference(tokens)
    torch.testing.assert_close(out, want, rtol=tolerance, atol=tolerance)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=out.dtype)
    inputs = [tokens, *module.parameters()]
    got, expected = (torch.autograd.grad((weight * each).sum(), inputs) for each in (out, want))
    for a, b in zip(got, expected, strict=True):
        assert b.abs().sum() > 0
        torch.testing.assert_close(a, b, rtol=10 * tolerance, atol=10 * tolerance)


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return norm.weight * centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-5) + norm.bias


def rms_norm(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    return norm.weight * x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-5)


def causal_taps(rows: Sequence[Tensor], taps: Tensor, bias: Tensor) -> list[Tensor]:
    """Each row with those before it, channel by channel; the last of ``taps (D, K)`` is for the row itself."""
    found = []
    for t in range(len(rows)):
        x = bias
        for back in range(min(taps.shape[1], t + 1)):
            x = x + taps[:, taps.shape[1] - 1 - back] * rows[t - back]
        found.append(x)
    return found


def selective(scan: nn.Module, rows: Sequence[Tensor]) -> list[Tensor]:
    """S6 over rows ``(D,)``, one after another, without a gate."""
    p = dict(scan.named_parameters())
    inner, states = p["A_log"].shape
    rank = p["dt_proj.weight"].shape[1]
    h = torch.zeros(inner, states, dtype=rows[0].dtype)
    found = []
    for x in rows:
        step, b, c = (p["x_proj.weight"] @ x).split([rank, states, states])
        delta = torch.log1p(torch.exp(p["dt_proj.weight"] @ step + p["dt_proj.bias"]))
        h = torch.exp(-delta[:, None] * torch.exp(p["A_log"])) * h + (delta * x)[:, None] * b[None]
        found.append((h * c[None]).sum(1) + p["D"] * x)
    return found


def mamba_mixer(mixer: nn.Module, tokens: Tensor) -> Tensor:
    """One direction over ``(L, D)``: projection, convolution over the past, recurrence, gate, projection."""
    inner = len(mixer.A_log)
    both = [mixer.in_proj.weight @ token for token in tokens]
    rows = causal_taps([row[:inner] for row in both], mixer.conv1d.weight[:, 0], mixer.conv1d.bias)
    scanned = selective(mixer, [silu(row) for row in rows])
    return torch.stack([mixer.out_proj.weight @ (y * silu(row[inner:])) for y, row in zip(scanned, both, strict=True)])


def mamba(layers: Sequence[nn.Module], tokens: Tensor) -> Tensor:
    """``x = LN(x) + Mamba(LN(x))``; layers 0, 2, … read ``(L, D)`` from the last token to the first."""
    for index, layer in enumerate(layers):
        x = layer_norm(layer.norm, tokens)
        if index % 2 == 0:
            mixed = list(mamba_mixer(layer.mixer, torch.stack(list(x)[::-1])))[::-1]
        else:
            mixed = list(mamba_mixer(layer.mixer, x))
        tokens = torch.stack([a + b for a, b in zip(x, mixed, strict=True)])
    return tokens


def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention, query by query."""
    heads = []
    for one_q, one_k, one_v in zip(q, k, v, strict=True):
        rows = []
        for query in one_q:
            weights = torch.exp(one_k @ query / math.sqrt(len(query)))
            rows.append((weights[:, None] * one_v).sum(0) / weights.sum())
        heads.append(torch.stack(rows))
    return torch.stack(heads)


def attention_block(block: nn.Module, x: Tensor, past: Tensor | None, head_dim: int, attend: Attend) -> Tensor:
    """Pre-norm attention of ``x (L, D)`` to ``past (M, D)`` and itself, then a gated MLP, each added to its input."""
    p = dict(block.named_parameters())
    dim = x.shape[1]
    own = rms_norm(block.input_layernorm, x)
    seen = own if past is None else torch.cat([rms_norm(block.input_layernorm, past), own])

    def project(part: int, tokens: Tensor) -> Tensor:
        rows = slice(part * dim, (part + 1) * dim)
        all_heads = tokens @ p["attn.qkv.weight"][rows].T + p["attn.qkv.bias"][rows]
        return torch.stack([all_heads[:, h : h + head_dim] for h in range(0, dim, head_dim)])

    mixed = torch.cat(list(attend(project(0, own), project(1, seen), project(2, seen))), dim=1)
    x = x + mixed @ p["attn.proj.weight"].T + p["attn.proj.bias"]
    y = rms_norm(block.post_attention_layernorm, x)
    gate = y @ p["mlp.gate_proj.weight"].T
    return x + (gelu(gate) * (y @ p["mlp.up_proj.weight"].T)) @ p["mlp.down_proj.weight"].T


def places(layout: TokenLayout) -> list[tuple[int, int]]:
    """Row and column on the map of each token that has a place, in the order of the sequence."""
    found = []
    for row in range(layout.region_rows * layout.side):
        for col in range(layout.region_cols * layout.side):
            region = row // layout.side * layout.region_cols + col // layout.side
            if layout.exists is None or layout.exists[region]:
                found.append((row, col))
    return found


def tokens_of_regions(layout: TokenLayout) -> list[list[int]]:
    """Index in the sequence of the tokens of each region that exists, regions and tokens in raster order."""
    exists = layout.exists or (True,) * (layout.region_rows * layout.region_cols)
    regions: dict[int, list[int]] = {r: [] for r, there in enumerate(exists) if there}
    index = 0
    for row in range(layout.region_rows * layout.side):
        for col in range(layout.region_cols * layout.side):
            region = row // layout.side * layout.region_cols + col // layout.side
            if exists[region]:
                regions[region].append(index)
                index += 1
    return list(regions.values())


def transformer_xl(
    layers: Sequence[nn.Module], tokens: Tensor, layout: TokenLayout, chunk: int, head_dim: int, attend: Attend
) -> Tensor:
    """Chunks of regions; at each layer a chunk also sees what the chunk before had there, without gradient."""
    regions = tokens_of_regions(layout)
    chunks = [list(chain(*regions[start : start + chunk])) for start in range(0, len(regions), chunk)]
    chunks[-1] = [*chunks[-1], *range(layout.num_tokens - layout.num_extra, layout.num_tokens)]
    states = [[tokens[indices] for indices in chunks]]
    for layer in layers:
        before = states[-1]
        pasts = [None, *(each.detach() for each in before[:-1])]
        states.append([attention_block(layer, x, m, head_dim, attend) for x, m in zip(before, pasts, strict=True)])
    rows: dict[int, Tensor] = {}
    for indices, mixed in zip(chunks, states[-1], strict=True):
        rows |= dict(zip(indices, mixed, strict=True))
    return torch.stack([rows[index] for index in range(len(rows))])
