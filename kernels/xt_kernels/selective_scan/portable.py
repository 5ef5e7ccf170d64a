"""The recurrence as one loop of the graph, which ONNX has as ``Scan``: for models that are exported."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._higher_order_ops import scan

from xt_kernels.dispatch import Backend


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
    """Same as :func:`xt_kernels.selective_scan.reference.selective_scan`, without gradients."""
    dtype = torch.promote_types(u.dtype, torch.float32)
    repeats = u.shape[2] // B.shape[2]
    x, step, rates = u.to(dtype), delta.to(dtype), A.to(dtype)
    if delta_bias is not None:
        step = step + delta_bias.to(dtype)
    if delta_softplus:
        step = F.softplus(step)
    size = (u.shape[0], u.shape[2], A.shape[1])
    state = u.new_zeros(size, dtype=dtype) if initial_state is None else initial_state.to(dtype).contiguous()
    # The loop goes along the first axis; an axis of channels lets B and C be those of groups.
    tokens = [step.unsqueeze(-1), (step * x).unsqueeze(-1), B.to(dtype), C.to(dtype)]
    if reverse:
        tokens = [each.flip(1) for each in tokens]

    def one(state: Tensor, token: list[Tensor]) -> tuple[Tensor, Tensor]:
        step, fed, b, c = token
        state = torch.exp(step * rates) * state + fed * b.repeat_interleave(repeats, 1)
        return state, (state * c.repeat_interleave(repeats, 1)).sum(-1)

    last, found = scan(one, state, [each.transpose(0, 1).contiguous() for each in tokens])
    y: Tensor = found.transpose(0, 1).contiguous()
    if reverse:
        y = y.flip(1)
    if D is not None:
        y = y + D.to(dtype) * x
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype), last


def _refuses(*arguments: object) -> str | None:
    recorded = torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in arguments)
    return "it has no gradients; run it under torch.no_grad()" if recorded else None


BACKEND = Backend(selective_scan, _refuses)
