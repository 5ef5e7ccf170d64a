"""The recurrence for CPUs, compiled by Numba on first use: one block of channels, its state in the nearest cache.

A block is as many channels as a vector has lanes. Tensors are flat arrays whose rows lie ``rows`` numbers apart (batch
and token of ``u``, ``delta``, ``B``, ``C``, ``z``, ``dy``; groups too for ``B`` and ``C``), so that views need no copy.
A task is (batch, group, block of the group). Nothing here knows of PyTorch.
"""

import functools

import numpy as np
from numba import njit

from xt_kernels.simd.compiled import VERSION, compiled
from xt_kernels.simd.memory import get, load, prefetch, put, store
from xt_kernels.simd.vectors import add, exp2, madd, mul, native_lanes, sigmoid, softplus, total

LN_2 = 0.6931471805599453
CHUNK = 32
"""Tokens between two kept states."""
LANES = native_lanes()
AHEAD = 8
"""Tokens to ask memory for in advance: rows lie further apart than the hardware looks ahead."""


@njit(inline="always")
def _place(task, sizes, lanes):
    """Batch, group, first channel and number of channels of a task."""
    width, groups, blocks = sizes[1] // sizes[3], sizes[3], sizes[4]
    batch, block = task // (groups * blocks), task % (groups * blocks)
    group, first = block // blocks, block % blocks * lanes
    return batch, group, group * width + first, min(lanes, width - first)


@functools.cache
def forward(lanes):
    """Kernel for vectors of ``lanes`` numbers.

    ``sizes`` are tokens, channels, states, groups, blocks of a group, reverse, softplus and keep; ``A`` is ``(N, D)``
    over ln 2, ``start`` and ``end`` are ``(B, N, D)``, and ``kept`` is ``(B, L / CHUNK, N, D)``.
    """
    version = VERSION

    def scan(task, sizes, rows, u, delta, A, B, C, D, z, bias, start, y, kept, end):
        version  # noqa: B018
        length, dim, states, _, _, reverse, soft, keep = sizes
        b, g, c0, count = _place(task, sizes, lanes)
        chunks = (length + CHUNK - 1) // CHUNK
        shift, skip = load(bias, c0, count, lanes), load(D, c0, count, lanes)
        h, a = np.empty(states * lanes, u.dtype), np.empty(states * lanes, u.dtype)
        for n in range(states):
            put(a, n, load(A, n * dim + c0, count, lanes))
            put(h, n, load(start, (b * states + n) * dim + c0, count, lanes))
        ahead = -AHEAD if reverse else AHEAD
        for i in range(length):
            t = length - 1 - i if reverse else i
            at_u, at_delta = b * rows[0] + t * rows[1] + c0, b * rows[2] + t * rows[3] + c0
            at_b, at_c = b * rows[4] + t * rows[5] + g * rows[6], b * rows[7] + t * rows[8] + g * rows[9]
            at_z, at_y = b * rows[10] + t * rows[11] + c0, (b * length + t) * dim + c0
            prefetch(u, at_u + ahead * rows[1], lanes, 0)
            prefetch(delta, at_delta + ahead * rows[3], lanes, 0)
            prefetch(y, at_y + ahead * dim, lanes, 1)
            if keep and i % CHUNK == 0:
                for n in range(states):
                    store(kept, ((b * chunks + i // CHUNK) * states + n) * dim + c0, count, get(h, n, lanes))
            x, step = load(u, at_u, count, lanes), add(load(delta, at_delta, count, lanes), shift)
            if soft:
                step = softplus(step)
            inp, out = mul(step, x), mul(skip, x)
            for n in range(states):
                new = madd(exp2(mul(step, get(a, n, lanes))), get(h, n, lanes), mul(inp, B[at_b + n]))
                put(h, n, new)
                out = madd(new, C[at_c + n], out)
            if z.size:
                prefetch(z, at_z + ahead * rows[11], lanes, 0)
                gate = load(z, at_z, count, lanes)
                out = mul(out, mul(gate, sigmoid(gate)))
            store(y, at_y, count, out)
        for n in range(states):
            store(end, (b * states + n) * dim + c0, count, get(h, n, lanes))

    return compiled(scan)


@functools.cache
def backward(lanes):
    """Kernel of the gradients for vectors of ``lanes`` numbers.

    ``dB`` and ``dC`` are ``(tasks, L, N)``; ``dA`` ``(B, N, D)``, ``dD`` and ``dbias`` ``(B, D)`` in double precision.
    A chunk is walked forward from its kept state with states and decays written down, then backward.
    """
    version = VERSION

    def scan(
        task, sizes, rows, u, delta, A, B, C, D, z, bias, kept, dy, dend, du, ddelta, dA, dB, dC, dD, dz, dbias, dstart
    ):  # fmt: skip
        version  # noqa: B018
        length, dim, states, _, _, reverse, soft, _ = sizes
        b, g, c0, count = _place(task, sizes, lanes)
        chunks = (length + CHUNK - 1) // CHUNK
        shift, skip = load(bias, c0, count, lanes), load(D, c0, count, lanes)
        h, e = np.empty((CHUNK + 1) * states * lanes, u.dtype), np.empty(CHUNK * states * lanes, u.dtype)
        dh, a = np.empty(states * lanes, u.dtype), np.empty(states * lanes, u.dtype)
        steps, douts = np.empty(CHUNK * lanes, u.dtype), np.empty(CHUNK * lanes, u.dtype)
        sums, sums64 = np.empty((states + 2) * lanes, u.dtype), np.zeros((states + 2) * lanes)
        for n in range(states):
            put(a, n, load(A, n * dim + c0, count, lanes))
            put(dh, n, load(dend, (b * states + n) * dim + c0, count, lanes))
        for chunk in range(chunks - 1, -1, -1):
            i0, tokens = chunk * CHUNK, min(CHUNK, length - chunk * CHUNK)
            sums[:] = 0
            for n in range(states):
                put(h, n, load(kept, ((b * chunks + chunk) * states + n) * dim + c0, count, lanes))
            for k in range(tokens):
                t = length - 1 - i0 - k if reverse else i0 + k
                at_b, at_c = b * rows[4] + t * rows[5] + g * rows[6], b * rows[7] + t * rows[8] + g * rows[9]
                x = load(u, b * rows[0] + t * rows[1] + c0, count, lanes)
                step = add(load(delta, b * rows[2] + t * rows[3] + c0, count, lanes), shift)
                if soft:
                    step = softplus(step)
                inp, out = mul(step, x), mul(skip, x)
                for n in range(states):
                    decay = exp2(mul(step, get(a, n, lanes)))
                    new = madd(decay, get(h, k * states + n, lanes), mul(inp, B[at_b + n]))
                    put(e, k * states + n, decay)
                    put(h, (k + 1) * states + n, new)
                    out = madd(new, C[at_c + n], out)
                dout = load(dy, b * rows[12] + t * rows[13] + c0, count, lanes)
                if z.size:
                    gate = load(z, b * rows[10] + t * rows[11] + c0, count, lanes)
                    part = sigmoid(gate)
                    slope = madd(mul(gate, part), add(mul(part, -1.0), 1.0), part)
                    store(dz, (b * length + t) * dim + c0, count, mul(mul(dout, out), slope))
                    dout = mul(dout, mul(gate, part))
                put(steps, k, step)
                put(douts, k, dout)
            for k in range(tokens - 1, -1, -1):
                t = length - 1 - i0 - k if reverse else i0 + k
                at_u, at_delta, at_y = (
                    b * rows[0] + t * rows[1] + c0,
                    b * rows[2] + t * rows[3] + c0,
                    b * rows[12] + t * rows[13] + c0,
                )
                at_b, at_c = b * rows[4] + t * rows[5] + g * rows[6], b * rows[7] + t * rows[8] + g * rows[9]
                # Walked next, from its first token on, is the chunk before.
                ahead = CHUNK if reverse else -CHUNK
                prefetch(u, at_u + ahead * rows[1], lanes, 0)
                prefetch(delta, at_delta + ahead * rows[3], lanes, 0)
                prefetch(dy, at_y + ahead * rows[13], lanes, 0)
                x, step, dout = load(u, at_u, count, lanes), get(steps, k, lanes), get(douts, k, lanes)
                inp = mul(step, x)
                dinp, dstep = mul(x, 0.0), mul(x, 0.0)
                row = (task * length + t) * states
                for n in range(states):
                    d = madd(dout, C[at_c + n], get(dh, n, lanes))
                    dC[row + n] = total(mul(dout, get(h, (k + 1) * states + n, lanes)))
                    dB[row + n] = total(mul(d, inp))
                    dinp = madd(d, B[at_b + n], dinp)
                    d = mul(d, get(e, k * states + n, lanes))
                    put(dh, n, d)
                    d = mul(d, get(h, k * states + n, lanes))
                    put(sums, n, madd(d, step, get(sums, n, lanes)))
                    dstep = madd(d, get(a, n, lanes), dstep)
                dstep = madd(dinp, x, mul(dstep, LN_2))
                if soft:
                    dstep = mul(dstep, sigmoid(add(load(delta, at_delta, count, lanes), shift)))
                put(sums, states, madd(dout, x, get(sums, states, lanes)))
                put(sums, states + 1, add(dstep, get(sums, states + 1, lanes)))
                store(du, (b * length + t) * dim + c0, count, madd(dinp, step, mul(dout, skip)))
                store(ddelta, (b * length + t) * dim + c0, count, dstep)
            for j in range(sums.size):
                sums64[j] += sums[j]
        for c in range(count):
            for n in range(states):
                dA[(b * states + n) * dim + c0 + c] = sums64[n * lanes + c]
            dD[b * dim + c0 + c] = sums64[states * lanes + c]
            dbias[b * dim + c0 + c] = sums64[(states + 1) * lanes + c]
        for n in range(states):
            store(dstart, (b * states + n) * dim + c0, count, get(dh, n, lanes))

    return compiled(scan)
