"""The scan on CPUs: hands arrays to :mod:`xt_kernels.selective_scan.numba_impl`, and blocks of channels to threads."""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

WIDTH = 512
"""Channels of a block, at most: long loops over channels cost least, and its states stay in the cache of a core."""
LOG2_E = 1.4426950408889634

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
    states, groups = A.shape[1], B.shape[2]
    start = np.zeros((batch, states, dim), np.float32)
    if initial_state is not None:
        start[:] = _array(initial_state.transpose(1, 2))
    y = torch.empty(batch, length, dim)
    kept = torch.empty(kept_shape(u, A, keep))
    end = np.empty_like(start)
    inputs = _inputs(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse)
    width, num_blocks = _blocks(batch, dim, groups)
    _run(_compiled().forward, batch * num_blocks, width, num_blocks, *inputs, start, y.numpy(), kept.numpy(), end)
    return y.to(u.dtype), torch.from_numpy(end).transpose(1, 2).contiguous(), kept


def kept_shape(u: Tensor, A: Tensor, keep: bool) -> tuple[int, ...]:
    """Of the third result of :func:`forward`: a state for each chunk of tokens."""
    chunks = -(-u.shape[1] // _compiled().CHUNK) if keep else 0
    return u.shape[0], chunks, A.shape[1], u.shape[2]


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
    """Gradients of ``u, delta, A, B, C, D, z, delta_bias, initial_state``, in fp32, whether they were given or not."""
    batch, length, dim = u.shape
    states, groups = A.shape[1], B.shape[2]
    width, num_blocks = _blocks(batch, dim, groups)
    du, ddelta, dz = (np.empty((batch, length, dim), np.float32) for _ in range(3))
    of_rates, of_skip, of_bias = np.empty((batch, states, dim)), np.empty((batch, dim)), np.empty((batch, dim))
    db, dc = (np.empty((num_blocks, batch, length, states), np.float32) for _ in range(2))
    dstart = np.empty((batch, states, dim), np.float32)
    inputs = _inputs(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse)
    grads = (_array(dy), _array(dend.transpose(1, 2)))
    outputs = (du, ddelta, of_rates, db, dc, of_skip, dz, of_bias, dstart)
    _run(_compiled().backward, batch * num_blocks, width, num_blocks, *inputs, kept.numpy(), *grads, *outputs)
    of_groups = (x.reshape(groups, -1, *x.shape[1:]).sum(1).transpose(1, 2, 0, 3) for x in (db, dc))
    results = (
        du, ddelta, of_rates.sum(0).T, *of_groups, of_skip.sum(0), dz, of_bias.sum(0), dstart.transpose(0, 2, 1),
    )  # fmt: skip
    return tuple(torch.from_numpy(np.ascontiguousarray(each, np.float32)) for each in results)


def refuses(u: Tensor, *others: Any) -> str | None:
    """Say why the scan cannot be taken, or return None if it can."""
    if u.dtype == torch.float64:
        return "u is torch.float64"
    return _missing()


@functools.cache
def _missing() -> str | None:
    try:
        _compiled()
    except ImportError as error:
        return f"numba cannot be used ({error})"
    return None


def _compiled() -> ModuleType:
    from xt_kernels.selective_scan import numba_impl  # loads numba

    return numba_impl


def _inputs(
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
) -> tuple[Array | bool, ...]:
    zeros = np.zeros(u.shape[2], np.float32)
    skip, bias = (zeros if each is None else _array(each) for each in (D, delta_bias))
    gate = np.empty((1, 1, 1), np.float32) if z is None else _array(z)
    rates = _array(A.T * LOG2_E)
    return (
        _array(u), _array(delta), rates, _array(B), _array(C), skip, gate, bias, delta_softplus, z is not None, reverse,
    )  # fmt: skip


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().to(torch.float32).contiguous().numpy()
    return array


def _blocks(batch: int, dim: int, groups: int) -> tuple[int, int]:
    """Width and number of the blocks of channels: whole vectors, no larger than ``WIDTH``, and work for each thread."""
    channels, threads = dim // groups, torch.get_num_threads()
    blocks = -(-channels // WIDTH)
    while batch * groups * blocks % threads and blocks < -(-channels // 16):
        blocks += 1
    width = -(-channels // blocks // 16) * 16
    return width, groups * -(-channels // width)


def _run(function: Callable[..., None], tasks: int, *arguments: object) -> None:
    """Call ``function(first, last, *arguments)`` over all tasks, cut into one part for each thread of PyTorch."""
    parts = min(torch.get_num_threads(), tasks)
    cuts = [tasks * i // parts for i in range(parts + 1)]
    others = [
        _pool(os.getpid(), parts - 1).submit(function, first, last, *arguments) for first, last in pairwise(cuts[1:])
    ]
    function(0, cuts[1], *arguments)
    for each in others:
        each.result()


@functools.lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    # Threads do not come along into a forked process, so each has a pool of its own.
    return ThreadPoolExecutor(threads, thread_name_prefix="selective_scan")
