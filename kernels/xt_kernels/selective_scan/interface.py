"""Validates, dispatches and documents the selective scan."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xt_kernels import dispatch
from xt_kernels.selective_scan import chunked, reference

BACKENDS = {"reference": reference.scan, "chunked": chunked.scan}


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    backend: str | None = None,
) -> Any:
    """Selective scan with the shapes of ``mamba_ssm.selective_scan_fn``.

    Args:
        u: ``(batch, D, L)``.
        delta: ``(batch, D, L)``.
        A: ``(D, N)``, negative.
        B: ``(batch, N, L)`` or ``(batch, G, N, L)``.
        C: As ``B``.
        D: ``(D,)`` skip.
        z: ``(batch, D, L)`` gate; the output is multiplied by SiLU(z).
        delta_bias: ``(D,)``, added to ``delta``.
        delta_softplus: Apply softplus to ``delta`` after the bias.
        initial_state: ``(batch, D, N)``; zero by default.
        return_last_state: Return the last state too.
        backend: ``"reference"`` or ``"chunked"``; by default ``XT_BACKEND``, then the fastest for the device.

    Returns:
        ``(batch, D, L)`` in the dtype of ``u``, or that and the last state ``(batch, D, N)`` in fp32 (fp64 for fp64).

    Raises:
        ValueError: If shapes do not fit or the backend is unknown.
    """
    last = (x.transpose(-1, -2) for x in (u, delta, B, C))
    u_l, delta_l, B_l, C_l = last
    if B.ndim == 4:
        B_l, C_l = B.permute(0, 3, 1, 2), C.permute(0, 3, 1, 2)
    z_l = None if z is None else z.transpose(1, 2)
    y, state = _run(u_l, delta_l, A, B_l, C_l, D, z_l, delta_bias, delta_softplus, initial_state, backend)
    y = y.transpose(1, 2)
    return (y, state) if return_last_state else y


def selective_scan_channels_last(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    backend: str | None = None,
) -> Any:
    """Selective scan on ``(batch, L, D)``; ``B`` and ``C`` are ``(batch, L, N)`` or ``(batch, L, G, N)``.

    Otherwise as :func:`selective_scan`.
    """
    y, state = _run(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, backend)
    return (y, state) if return_last_state else y


def _run(
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
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(u.dtype, torch.float32)
    B, C = (x.unsqueeze(2) if x.ndim == 3 else x for x in (B, C))
    batch, length, dim = u.shape
    if delta.shape != u.shape or A.shape[0] != dim or B.shape != C.shape or dim % B.shape[2] or not length:
        raise ValueError(
            f"selective_scan: shapes do not fit: u {tuple(u.shape)}, delta {tuple(delta.shape)}, A {tuple(A.shape)}, "
            f"B {tuple(B.shape)}, C {tuple(C.shape)}"
        )
    step = delta.to(dtype)
    if delta_bias is not None:
        step = step + delta_bias.to(dtype)
    if delta_softplus:
        step = F.softplus(step)
    state = u.new_zeros(batch, dim, A.shape[1], dtype=dtype) if initial_state is None else initial_state.to(dtype)
    run = BACKENDS[dispatch.choose("selective_scan", BACKENDS, backend, default="chunked")]
    y, state = run(u.to(dtype), step, A.to(dtype), B.to(dtype), C.to(dtype), state)
    if D is not None:
        y = y + D.to(dtype) * u
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype), state
