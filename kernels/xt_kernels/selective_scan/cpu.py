"""The scan on CPUs: hands arrays to :mod:`xt_kernels.selective_scan.numba_impl`, and blocks of channels to threads."""

from types import ModuleType
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from xt_kernels.simd import missing, threads

LOG2_E = 1.4426950408889634
FEWEST_LANES, FEWEST_TASKS = 16, 8
SMALL = 1 << 18
"""State updates that a thread of its own is worth."""

Array = npt.NDArray[Any]


def forward(
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
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the scan; the third result is what :func:`backward` needs, empty unless ``keep``."""
    batch, length, dim = u.shape
    single: dict[str, Any] = {"dtype": compute_dtype(u)}
    tensors = _inputs(u, delta, A, B, C, D, z, delta_bias)
    start = torch.zeros(batch, A.shape[1], dim, **single)
    if initial_state is not None:
        start.copy_(initial_state.detach().transpose(1, 2))
    y, end = torch.empty(batch, length, dim, **single), torch.empty_like(start)
    kept = torch.empty(kept_shape(u, A, keep), **single)
    lanes, sizes = _sizes(u, A, B, reverse, delta_softplus, keep)
    arguments = (sizes, _rows(tensors, None), *map(_flat, (*tensors, start, y, kept, end)))
    threads.run(_compiled().forward(lanes), *_tasks(u, sizes), arguments)
    return y.to(u.dtype), end.transpose(1, 2).contiguous(), kept


def kept_shape(u: Tensor, A: Tensor, keep: bool) -> tuple[int, ...]:
    """Of the third result of :func:`forward`: a state for each chunk of tokens."""
    chunks = -(-u.shape[1] // _compiled().CHUNK) if keep else 0
    return u.shape[0], chunks, A.shape[1], u.shape[2]


def compute_dtype(u: Tensor) -> torch.dtype:
    """Fp32, or fp64 for fp64."""
    return torch.promote_types(u.dtype, torch.float32)


def backward(
    dy: Tensor,
    dend: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
    kept: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of ``u, delta, A, B, C, D, z, delta_bias, initial_state``, in fp32 (fp64), given or not."""
    batch, length, dim = u.shape
    dtype = compute_dtype(u)
    tensors, dy = _inputs(u, delta, A, B, C, D, z, delta_bias), _in_rows(dy, dtype)
    lanes, sizes = _sizes(u, A, B, reverse, delta_softplus, True)
    dend = dend.detach().to(dtype).transpose(1, 2).contiguous()
    du, ddelta = (torch.empty(batch, length, dim, dtype=dtype) for _ in range(2))
    dz = torch.empty_like(du) if z is not None else torch.zeros_like(du)
    db, dc = (torch.empty(batch, B.shape[2], sizes[4], length, A.shape[1], dtype=dtype) for _ in range(2))
    of_rates, of_skip, of_bias = torch.empty_like(dend).double(), *torch.empty(2, batch, dim, dtype=torch.float64)
    dstart = torch.empty_like(dend)
    outputs = (du, ddelta, of_rates, db, dc, of_skip, dz, of_bias, dstart)
    arguments = (sizes, _rows(tensors, dy), *map(_flat, (*tensors, kept, dy, dend, *outputs)))
    threads.run(_compiled().backward(lanes), *_tasks(u, sizes), arguments)
    of_groups = (x.sum(2).transpose(1, 2) for x in (db, dc))
    results = (
        du, ddelta, of_rates.sum(0).T, *of_groups, of_skip.sum(0), dz, of_bias.sum(0), dstart.transpose(1, 2),
    )  # fmt: skip
    return tuple(each.to(dtype).contiguous() for each in results)


def refuses(*_: Any) -> str | None:
    """Say why the scan cannot be taken, or return None if it can."""
    return missing(f"{__package__}.numba_impl")


def _compiled() -> ModuleType:
    from xt_kernels.selective_scan import numba_impl  # loads numba

    return numba_impl


def _inputs(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, ...]:
    """In the order of the kernels and one dtype, numbers of a row side by side; zeros and no gate for None."""
    dtype = compute_dtype(u)
    rates = (A.detach().to(dtype) * LOG2_E).T.contiguous()
    zeros, none = torch.zeros(u.shape[2], dtype=dtype), torch.empty(0, 0, 0, dtype=dtype)
    u, delta, B, C = (_in_rows(x, dtype) for x in (u, delta, B, C))
    skip, shift = (zeros if x is None else _in_rows(x, dtype) for x in (D, bias))
    return u, delta, rates, B, C, skip, none if z is None else _in_rows(z, dtype), shift


def _in_rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    x = x.detach().to(dtype)
    return x if x.stride(-1) == 1 else x.contiguous()


def _rows(tensors: tuple[Tensor, ...], dy: Tensor | None) -> tuple[int, ...]:
    """Numbers between batch entries, tokens (and groups) of ``u``, ``delta``, ``B``, ``C``, ``z`` and ``dy``."""
    u, delta, _, B, C, _, z, _ = tensors
    steps = (u.stride()[:2], delta.stride()[:2], B.stride()[:3], C.stride()[:3], z.stride()[:2])
    return sum(steps, ()) + ((0, 0) if dy is None else dy.stride()[:2])


def _flat(x: Tensor) -> Array:
    """All from the first number to the last, those between rows too."""
    span = 1 + sum((size - 1) * step for size, step in zip(x.shape, x.stride(), strict=True)) if x.numel() else 0
    array: Array = x.as_strided((span,), (1,)).numpy()
    return array


def _sizes(u: Tensor, A: Tensor, B: Tensor, *flags: bool) -> tuple[int, tuple[int, ...]]:
    """Lanes of a vector and the ``sizes`` of the kernels.

    Vectors are narrower where a group is narrow or blocks are too few to be shared, whatever the number of threads,
    which so changes no result.
    """
    (batch, length, dim), groups = u.shape, B.shape[2]
    width, lanes = dim // groups, _compiled().LANES
    while lanes > FEWEST_LANES and (width <= lanes // 2 or batch * groups * -(-width // lanes) < FEWEST_TASKS):
        lanes //= 2
    if compute_dtype(u) == torch.float64:
        lanes //= 2
    return lanes, (length, dim, A.shape[1], groups, -(-width // lanes), *map(int, flags))


def _tasks(u: Tensor, sizes: tuple[int, ...]) -> tuple[int, int]:
    """How many there are, and how many threads they are worth."""
    return u.shape[0] * sizes[3] * sizes[4], u.numel() * sizes[2] // SMALL
