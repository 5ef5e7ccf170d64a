"""HyperAttention in operations that every runtime has, all blocks at once: for models that are exported.

Directions and samples are drawn before: run it once before it is traced, and they are constants of the graph.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from xt_kernels.dispatch import Backend
from xt_kernels.hyper_attention import plan
from xt_kernels.hyper_attention.plan import Options, Part


def hyper_attention(q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
    """Same as :func:`xt_kernels.hyper_attention.reference.hyper_attention`, if there is no causal estimate."""
    if max(q.shape[2], k.shape[2]) <= options.min_seq_len:
        return F.scaled_dot_product_attention(q, k, v, is_causal=options.causal, scale=options.scale)
    dtype = plan.working(q.dtype)
    (part,) = plan.parts(q.shape[2], k.shape[2], options)
    assert part.seed is not None
    directions = plan.projections(q.shape[-1], options, part.seed, dtype, q.device)
    some_q, some_k, some_v = (each.to(dtype) for each in (q, k, v))
    q_order, k_order = (_sorted(each, directions) for each in (some_q, some_k))
    q_blocks = _blocks(_rows(some_q, q_order), part.blocks, part.q_size)
    samples, weights = plan.sampled(part, dtype, q.device)
    keys, values = (
        torch.cat([_blocks(_rows(each, k_order), part.blocks, part.k_size), _shared(each[:, :, samples], part)], 3)
        for each in (some_k, some_v)
    )
    bias = _bias(k_order, samples, weights, part)
    shares = (options.scale * (q_blocks @ keys.transpose(-1, -2)) + bias).softmax(-1)
    mixed = shares @ values
    return _rows(mixed.flatten(2, 3)[:, :, : part.length], q_order.argsort()).to(q.dtype)


def _sorted(x: Tensor, directions: Tensor) -> Tensor:
    """Order of ``(B, H, L, D)`` by the hash, ``(B, H, L)``."""
    bits = (x @ directions.t() > 0).movedim(-1, 0)
    length = bits.shape[-1]
    # Each is another number, so that no runtime can put equal ranks in an order of its own; ONNX has no stable sort.
    ranks = plan.ranks(bits).long() * length + torch.arange(length, device=x.device)
    return ranks.argsort(dim=-1)


def _rows(x: Tensor, order: Tensor) -> Tensor:
    return x.gather(2, order.unsqueeze(-1).expand(-1, -1, -1, x.shape[-1]))


def _blocks(x: Tensor, blocks: int, size: int) -> Tensor:
    """Cut ``(B, H, L, D)`` into ``(B, H, blocks, size, D)``; what is missing at the end is 0."""
    padded = F.pad(x, (0, 0, 0, blocks * size - x.shape[2]))
    return padded.view(*x.shape[:2], blocks, size, x.shape[3])


def _shared(x: Tensor, part: Part) -> Tensor:
    return x.unsqueeze(2).expand(-1, -1, part.blocks, -1, -1)


def _bias(k_order: Tensor, samples: Tensor, weights: Tensor, part: Part) -> Tensor:
    """Logarithms of the keys' weights ``(B, H, blocks, 1, k_size + samples)``; a key counts once for a query."""
    blocks = torch.arange(part.blocks, device=k_order.device)[:, None]
    places = k_order.argsort()[..., samples] // part.k_size
    sampled = weights.masked_fill(places.unsqueeze(2) == blocks, -torch.inf)
    filled = blocks * part.k_size + torch.arange(part.k_size, device=k_order.device) < part.keys
    own = torch.zeros_like(filled, dtype=weights.dtype).masked_fill(~filled, -torch.inf)
    return torch.cat([own.expand(*sampled.shape[:2], -1, -1), sampled], 3).unsqueeze(3)


def _refuses(q: Tensor, k: Tensor, v: Tensor, options: Options) -> str | None:
    length = max(q.shape[2], k.shape[2])
    if options.causal and length > options.min_seq_len:
        return f"a causal mask over {length} tokens, more than min_seq_len {options.min_seq_len}"
    return None


BACKEND = Backend(hyper_attention, _refuses)
