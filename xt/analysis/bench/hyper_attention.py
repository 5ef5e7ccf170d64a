"""HyperAttention beside its peers, 6 heads of 128 channels.

``two_pass`` is the form of the authors' code in plain torch: blocks and samples attended apart, merged by their
log-sum-exp. ``sdpa`` and ``materialised`` are exact attention. ``plain`` and ``triton`` are the backends with 256 keys
of a block and 256 samples, and with ``_taper`` as :class:`xt.models.context.hyper.Hyper` calls them: exact up to 4,096
tokens. The oracle lists the keys of each query in Python and is no peer. Errors are those of the outputs to exact
attention on tokens in 64 clusters.
"""

import math
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from xt.analysis.bench.peers import Inputs, Op, Peer
from xt_kernels.hyper_attention import hyper_attention
from xt_kernels.hyper_attention.reference import attention

HEADS, DIM = 6, 128
BLOCK = SAMPLES = 256
EXACT_UNTIL = 4096
ERROR_UNTIL = 16384


def two_pass(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend as the authors' code does: sorted copies, two softmaxes, a merge."""
    batch, heads, length, dim = q.shape
    scale = dim**-0.5
    directions = torch.randn(dim, 7, generator=torch.Generator().manual_seed(0)).to(q)
    powers = 2 ** torch.arange(6, -1, -1, device=q.device)

    def sort(x: Tensor) -> Tensor:
        gray = (x @ directions > 0).long()
        return ((gray.cumsum(-1) % 2) * powers).sum(-1).argsort(dim=-1, stable=True)

    def cut(x: Tensor, order: Tensor) -> Tensor:
        return x.gather(2, order.unsqueeze(-1).expand(-1, -1, -1, dim)).view(batch, heads, -1, BLOCK, dim)

    q_order, k_order = sort(q), sort(k)
    sorted_q, sorted_k, sorted_v = cut(q, q_order), cut(k, k_order), cut(v, k_order)
    logits = scale * (sorted_q @ sorted_k.mT)
    lse = logits.logsumexp(-1, keepdim=True)
    own = (logits - lse).exp() @ sorted_v
    samples = torch.randint(length, (SAMPLES,), generator=torch.Generator().manual_seed(0)).to(q.device)
    places = k_order.argsort(-1)[..., samples] // BLOCK
    here = torch.arange(length // BLOCK, device=q.device)[:, None] == places.unsqueeze(2)
    bias = torch.zeros_like(here, dtype=q.dtype).masked_fill_(here, -math.inf).unsqueeze(3)
    logits = scale * (sorted_q @ k[:, :, None, samples].mT) + bias
    lse_samples = logits.logsumexp(-1, keepdim=True)
    rest = (logits - lse_samples).exp() @ v[:, :, None, samples]
    lse_samples = lse_samples + math.log(length / SAMPLES)
    share = torch.sigmoid(lse - lse_samples)
    merged: Tensor = (share * own + (1 - share) * rest).flatten(2, 3)
    return merged.gather(2, q_order.argsort(-1).unsqueeze(-1).expand(-1, -1, -1, dim))


def materialised(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Exact attention whose logits are written down."""
    return attention(q, k, v, float(q.shape[-1] ** -0.5), False)


def peers(device: str) -> dict[str, Peer]:
    """Name what is compared on a device."""
    found = {}
    for backend in ("triton", "plain") if device == "cuda" else ("plain",):
        for taper in (False, True):
            run = partial(hyper_attention, min_seq_len=EXACT_UNTIL if taper else BLOCK, taper=taper, backend=backend)
            oracle, checked = (partial(_small_op, each, taper) for each in ("reference", backend))
            found[f"{backend}_taper" if taper else backend] = Peer(run, True, oracle, checked)
    found["two_pass"] = Peer(two_pass)
    found["sdpa"] = Peer(F.scaled_dot_product_attention)
    found["materialised"] = Peer(materialised)
    return found


def _small_op(backend: str, taper: bool, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return hyper_attention(q, k, v, block_size=32, sample_size=16, min_seq_len=64, taper=taper, backend=backend)


def draw(tokens: int, dtype: torch.dtype, device: str) -> Inputs:
    """Draw q, k, v ``(1, H, L, D)`` as a model cuts them out of one projection."""
    return _cut(torch.randn(1, tokens, 3 * HEADS * DIM, generator=_generator(tokens)).to(device, dtype), HEADS)


def small(dtype: torch.dtype, device: str) -> Inputs:
    """Some tokens of two heads, of which :func:`_small_op` samples."""
    return _cut(torch.randn(1, 150, 3 * 32, generator=_generator(150)).to(device, dtype), 2)


def work(peer: str, tokens: int, itemsize: int, backward: bool) -> float:
    """FLOP of the products: two of the keys that a query attends to; five more backward."""
    keys = float(min(tokens, BLOCK + SAMPLES))
    if peer in ("sdpa", "materialised") or (peer.endswith("taper") and tokens <= EXACT_UNTIL):
        keys = tokens
    elif peer.endswith("taper"):
        keys = BLOCK + max(SAMPLES, EXACT_UNTIL**2 / tokens)
    return 2.0 * HEADS * DIM * tokens * keys * (7 if backward else 2)


def errors(peer: str, tokens: int, device: str) -> float | None:
    """Relative error to exact attention on clustered tokens; None where that would take long."""
    if peer in ("sdpa", "materialised") or tokens > ERROR_UNTIL:
        return None
    tensors, want = _clustered(tokens, device)
    return float((peers(device)[peer].run(*tensors) - want).norm() / want.norm())


@cache
def _clustered(tokens: int, device: str) -> tuple[Inputs, Tensor]:
    """Tokens in 64 clusters, and what exact attention makes of them."""
    g = _generator(tokens)
    centres = torch.randn(1, 1, 64, DIM, generator=g)[:, :, torch.randint(64, (tokens,), generator=g)]
    tensors = tuple((centres + 0.3 * torch.randn(centres.shape, generator=g)).to(device) for _ in range(3))
    q, k, v = tensors
    return tensors, F.scaled_dot_product_attention(q, k, v)


def _cut(joint: Tensor, heads: int) -> Inputs:
    return tuple(x.view(*x.shape[:2], heads, -1).transpose(1, 2) for x in joint.chunk(3, -1))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


OP = Op(f"1 × {HEADS} heads × tokens × {DIM} channels", "gemm", draw, small, peers, work, errors=errors)
