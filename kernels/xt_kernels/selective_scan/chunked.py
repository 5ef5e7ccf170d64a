"""The scan in plain torch: 16 chunks of 16 steps at a time, recomputed in backward."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from xt_kernels.dispatch import Backend, transformed

STEPS = 16
SEGMENT = 256


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Same as :func:`xt_kernels.selective_scan.reference.selective_scan`."""
    dtype = torch.promote_types(u.dtype, torch.float32)
    step = delta.to(dtype)
    if delta_bias is not None:
        step = step + delta_bias.to(dtype)
    if delta_softplus:
        step = F.softplus(step)
    size = (u.shape[0], u.shape[2], A.shape[1])
    state = u.new_zeros(size, dtype=dtype) if initial_state is None else initial_state.to(dtype)
    tokens = (u.to(dtype), step, B.to(dtype), C.to(dtype))
    x, step, B, C = (each.flip(1) for each in tokens) if reverse else tokens
    y, state = _scan(x, step, B, C, A.to(dtype), state)
    if reverse:
        y = y.flip(1)
    if D is not None:
        y = y + D.to(dtype) * u
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype), state


def _scan(u: Tensor, delta: Tensor, B: Tensor, C: Tensor, A: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    outputs = []
    # Not slices: backward of each would fill a sequence with zeros.
    for part in zip(*(torch.split(each, SEGMENT, 1) for each in (u, delta, B, C)), strict=True):
        arguments = (*part, A, state)
        if torch.is_grad_enabled() and not transformed():  # no transform sees through a checkpoint
            y, state = checkpoint(_segment, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            y, state = _segment(*arguments)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def _segment(u: Tensor, delta: Tensor, B: Tensor, C: Tensor, A: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    batch, length, dim = u.shape
    groups, states = B.shape[2], B.shape[3]
    padding = -length % STEPS
    # A step with Δ = 0 leaves the state as it is.
    u, delta = (F.pad(x, (0, 0, 0, padding)) for x in (u, delta))
    B, C = (F.pad(x, (0, 0, 0, 0, 0, padding)) for x in (B, C))
    chunks = (length + padding) // STEPS
    delta = delta.view(batch, chunks, STEPS, groups, dim // groups, 1)
    u = u.view(batch, chunks, STEPS, groups, dim // groups, 1)
    B, C = (x.view(batch, chunks, STEPS, groups, 1, states) for x in (B, C))
    A = A.view(groups, dim // groups, states)
    decay = torch.exp(delta * A)
    inputs = delta * u * B
    local = [inputs[:, :, 0]]
    for t in range(1, STEPS):
        local.append(torch.addcmul(inputs[:, :, t], decay[:, :, t], local[-1]))
    from_start = torch.exp(delta.cumsum(2) * A)
    carried = state.view(batch, groups, dim // groups, states)
    before = []
    for chunk in range(chunks):
        before.append(carried)
        carried = torch.addcmul(local[-1][:, chunk], from_start[:, chunk, -1], carried)
    hidden = torch.addcmul(torch.stack(local, 2), from_start, torch.stack(before, 1).unsqueeze(2))
    y = (hidden * C).sum(-1).view(batch, chunks * STEPS, dim)[:, :length]
    return y, carried.reshape(batch, dim, states)


BACKEND = Backend(selective_scan)
