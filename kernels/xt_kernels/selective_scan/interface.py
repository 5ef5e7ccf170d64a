"""Validates, dispatches and documents the selective scan."""

from typing import Any

from torch import Tensor

from xt_kernels import dispatch
from xt_kernels.dispatch import Backend
from xt_kernels.selective_scan import chunked, ops, portable, reference

BACKENDS: dict[str, Backend[..., tuple[Tensor, Tensor]]] = ops.BACKENDS | {
    "chunked": chunked.BACKEND,
    "reference": reference.BACKEND,
    dispatch.PORTABLE: portable.BACKEND,
}
"""Best first."""


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
    reverse: bool = False,
    backend: str | None = None,
) -> Any:
    """Selective scan with the shapes of ``mamba_ssm.selective_scan_fn``.

    All tensors are of floating point and on one device; their dtypes may differ.

    Args:
        u: ``(batch, D, L)``.
        delta: ``(batch, D, L)``.
        A: ``(D, N)``, negative.
        B: ``(batch, N, L)`` or ``(batch, G, N, L)``, G divides D.
        C: As ``B``.
        D: ``(D,)`` skip.
        z: ``(batch, D, L)`` gate; the output is multiplied by SiLU(z).
        delta_bias: ``(D,)``, added to ``delta``.
        delta_softplus: Apply softplus to ``delta`` after the bias.
        initial_state: ``(batch, D, N)``; zero by default.
        return_last_state: Return the last state too.
        reverse: From the last token to the first; the last state is then that of the first token.
        backend: ``"triton"``, ``"numba"``, ``"chunked"``, ``"reference"`` or ``"portable"``; by default ``XT_BACKEND``,
            then the fastest for the device.

    Returns:
        ``(batch, D, L)`` in the dtype of ``u``, or that and the last state ``(batch, D, N)`` in fp32 (fp64 for fp64).

    Raises:
        ValueError: If shapes, dtypes or devices do not fit, or the backend is unknown or cannot take the tensors.
    """
    _check(u, delta, A, B, C, D, z, delta_bias, initial_state, channels_last=False)
    u, delta = u.transpose(1, 2), delta.transpose(1, 2)
    B, C = (x.transpose(1, 2) if x.ndim == 3 else x.permute(0, 3, 1, 2) for x in (B, C))
    z = None if z is None else z.transpose(1, 2)
    y, state = _run(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, reverse, backend)
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
    reverse: bool = False,
    backend: str | None = None,
) -> Any:
    """Selective scan on ``(batch, L, D)``; ``B`` and ``C`` are ``(batch, L, N)`` or ``(batch, L, G, N)``.

    Otherwise as :func:`selective_scan`.
    """
    _check(u, delta, A, B, C, D, z, delta_bias, initial_state, channels_last=True)
    y, state = _run(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, reverse, backend)
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
    reverse: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    B, C = (x.unsqueeze(2) if x.ndim == 3 else x for x in (B, C))
    arguments = (u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, reverse)
    return dispatch.call("selective_scan", BACKENDS, backend, *arguments)


def _check(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    channels_last: bool,
) -> None:
    if u.ndim != 3 or not u.numel():
        axes = "(batch, L, D)" if channels_last else "(batch, D, L)"
        raise ValueError(f"selective_scan: u is {tuple(u.shape)}; it must be {axes} with no size of 0")
    batch, length, dim = u.shape if channels_last else (u.shape[0], u.shape[2], u.shape[1])
    states = A.shape[-1] if A.ndim else 0
    groups = B.shape[2 if channels_last else 1] if B.ndim == 4 else 1
    if not states or not groups or dim % groups:
        raise ValueError(
            f"selective_scan: {states} states (A is {tuple(A.shape)}) and {groups} groups (B is {tuple(B.shape)}) "
            f"do not fit {dim} channels; groups must divide them"
        )
    between = (groups,) if B.ndim == 4 else ()
    shape_b = (batch, length, *between, states) if channels_last else (batch, *between, states, length)
    of_u = tuple(u.shape)
    checked = {
        "delta": (delta, of_u),
        "A": (A, (dim, states)),
        "B": (B, shape_b),
        "C": (C, shape_b),
        "D": (D, (dim,)),
        "z": (z, of_u),
        "delta_bias": (delta_bias, (dim,)),
        "initial_state": (initial_state, (batch, dim, states)),
    }
    for name, (tensor, shape) in {"u": (u, of_u), **checked}.items():
        if tensor is None:
            continue
        if tensor.shape != shape:
            raise ValueError(f"selective_scan: {name} is {tuple(tensor.shape)}; with u {of_u} it must be {shape}")
        if not tensor.is_floating_point() or tensor.device != u.device:
            raise ValueError(
                f"selective_scan: {name} is {tensor.dtype} on {tensor.device}; it must be of floating point and on "
                f"{u.device} as u"
            )
