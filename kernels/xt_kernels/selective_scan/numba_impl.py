"""The recurrence for CPUs, compiled by Numba on first use: a block of channels at a time, its state in the cache.

The loops over channels are what LLVM turns into vector instructions. Backward starts each chunk of tokens from a kept
state and runs it again, so memory is O(B·L·D). Nothing here knows of PyTorch.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

f32 = np.float32
LOG2_E = f32(1.4426950408889634)
LN_2 = f32(0.6931471805599453)
CHUNK = 32
"""Tokens between two kept states."""
EXACT = {"contract", "nnan", "ninf", "nsz"}
"""Flags of fast mathematics without reassociation, which would break the rounding in ``_exp2``."""
SUMS = EXACT | {"reassoc"}
"""The same for sums over channels, whose order is free."""


def _compiled(**options):
    """Compile on first use, for other processes too where there is a folder to keep it in."""

    def decorate(function):
        try:
            return njit(nogil=True, error_model="numpy", cache=True, **options)(function)
        except RuntimeError:  # no folder can be written
            return njit(nogil=True, error_model="numpy", **options)(function)

    return decorate


@intrinsic
def _as_float(typing, x):
    return types.float32(types.int32), lambda context, builder, sig, args: builder.bitcast(args[0], ir.FloatType())


@intrinsic
def _as_int(typing, x):
    return types.int32(types.float32), lambda context, builder, sig, args: builder.bitcast(args[0], ir.IntType(32))


@njit(inline="always")
def _exp2(x):
    """2 to the power of x, between -126 and 126 (relative error 1e-7)."""
    x = min(max(x, f32(-126.0)), f32(126.0))
    whole = x + f32(12582912.0)  # adding 1.5 · 2²³ rounds to an integer
    rest = x - (whole - f32(12582912.0))
    p = f32(1.3264726e-3)
    p = p * rest + f32(9.6715130e-3)
    p = p * rest + f32(5.5507336e-2)
    p = p * rest + f32(2.4022242e-1)
    p = p * rest + f32(6.9314700e-1)
    p = p * rest + f32(1.0)
    return _as_float(_as_int(p) + (_as_int(whole) << np.int32(23)))


@njit(inline="always")
def _softplus(x):
    """log(1 + exp(x)) (relative error 2e-7)."""
    e = _exp2(-abs(x) * LOG2_E)
    p = f32(5.2326689e-3)
    p = p * e + f32(-2.9505137e-2)
    p = p * e + f32(7.8225784e-2)
    p = p * e + f32(-1.3663232e-1)
    p = p * e + f32(1.9106001e-1)
    p = p * e + f32(-2.4842981e-1)
    p = p * e + f32(3.3319098e-1)
    p = p * e + f32(-4.9999493e-1)
    p = p * e + f32(0.99999994)
    return max(x, f32(0.0)) + e * p


@njit(inline="always")
def _sigmoid(x):
    return f32(1.0) / (f32(1.0) + _exp2(-x * LOG2_E))


@njit(inline="always")
def _place(task, width, num_blocks, dim, groups):
    """Batch, group, first channel and number of channels of a task."""
    batch, block = task // num_blocks, task % num_blocks
    per_group, channels = num_blocks // groups, dim // groups
    group, inside = block // per_group, block % per_group * width
    return batch, block, group, group * channels + inside, min(width, channels - inside)


@_compiled(fastmath=EXACT)
def forward(
    first, last, width, num_blocks, u, delta, A, B, C, D, z, bias, softplus, gated, reverse, start, y, kept, end
):  # fmt: skip
    """Run tasks ``first`` to ``last``, each a block of channels of a batch entry.

    All are fp32 and contiguous. ``A`` is ``(N, D)`` over ln 2, ``B`` and ``C`` are ``(B, L, G, N)``, ``start`` and
    ``end`` ``(B, N, D)``, and ``kept`` is ``(B, L / CHUNK, N, D)``, or without chunks.
    """
    length, dim = u.shape[1], u.shape[2]
    states, groups = A.shape[0], B.shape[2]
    h, a = np.empty((states, width), f32), np.empty((states, width), f32)
    step, inp, out = np.empty(width, f32), np.empty(width, f32), np.empty(width, f32)
    for task in range(first, last):
        b, _, g, c0, w = _place(task, width, num_blocks, dim, groups)
        h[:, :w] = start[b, :, c0 : c0 + w]
        a[:, :w] = A[:, c0 : c0 + w]
        skip, shift = D[c0 : c0 + w], bias[c0 : c0 + w]
        for i in range(length):
            t = length - 1 - i if reverse else i
            if i % CHUNK == 0 and kept.shape[1]:
                kept[b, i // CHUNK, :, c0 : c0 + w] = h[:, :w]
            # Rows of their own: an index that may be negative, as c0 + c, keeps LLVM from using vectors.
            us, deltas, ys = u[b, t, c0 : c0 + w], delta[b, t, c0 : c0 + w], y[b, t, c0 : c0 + w]
            for c in range(w):
                step[c] = deltas[c] + shift[c]
            if softplus:
                for c in range(w):
                    step[c] = _softplus(step[c])
            for c in range(w):
                inp[c] = step[c] * us[c]
                out[c] = skip[c] * us[c]
            for n in range(states):
                from_input, to_output = B[b, t, g, n], C[b, t, g, n]
                for c in range(w):
                    new = _exp2(step[c] * a[n, c]) * h[n, c] + inp[c] * from_input
                    h[n, c] = new
                    out[c] += new * to_output
            if gated:
                zs = z[b, t, c0 : c0 + w]
                for c in range(w):
                    out[c] *= zs[c] * _sigmoid(zs[c])
            for c in range(w):
                ys[c] = out[c]
        end[b, :, c0 : c0 + w] = h[:, :w]


@_compiled(fastmath=EXACT)
def _again(
    b, g, c0, w, i0, i1, u, delta, a, B, C, D, z, bias, softplus, gated, reverse, dy, dz, h, e, step, slope, inp, dout
):  # fmt: skip
    """Run a chunk again, keeping what backward needs of each token."""
    length = u.shape[1]
    skip, shift, out = D[c0 : c0 + w], bias[c0 : c0 + w], np.empty(w, f32)
    for i in range(i0, i1):
        k, t = i - i0, length - 1 - i if reverse else i
        us, deltas, dys = u[b, t, c0 : c0 + w], delta[b, t, c0 : c0 + w], dy[b, t, c0 : c0 + w]
        steps, slopes, inps, douts = step[k], slope[k], inp[k], dout[k]
        for c in range(w):
            steps[c] = deltas[c] + shift[c]
            slopes[c] = f32(1.0)
        if softplus:
            for c in range(w):
                slopes[c] = _sigmoid(steps[c])
                steps[c] = _softplus(steps[c])
        for c in range(w):
            inps[c] = steps[c] * us[c]
            douts[c] = dys[c]
            out[c] = skip[c] * us[c]
        for n in range(a.shape[0]):
            from_input, to_output = B[b, t, g, n], C[b, t, g, n]
            before, after, decays, rates = h[k, n], h[k + 1, n], e[k, n], a[n]
            for c in range(w):
                decay = _exp2(steps[c] * rates[c])
                decays[c] = decay
                new = decay * before[c] + inps[c] * from_input
                after[c] = new
                out[c] += new * to_output
        if gated:
            zs, dzs = z[b, t, c0 : c0 + w], dz[b, t, c0 : c0 + w]
            for c in range(w):
                part = _sigmoid(zs[c])
                dzs[c] = douts[c] * out[c] * part * (f32(1.0) + zs[c] * (f32(1.0) - part))
                douts[c] *= zs[c] * part


@_compiled(fastmath=SUMS)
def _back(
    b, block, g, c0, w, i0, i1, u, a, B, C, D, reverse, h, e, step, slope, inp, dout,
    dh, du, ddelta, dA, dB, dC, dD, dbias,
):  # fmt: skip
    """Walk a chunk backwards; ``dh`` is the gradient of the state after it, then of the state before it."""
    length = u.shape[1]
    dinp, dstep, skip = np.empty(w, f32), np.empty(w, f32), D[c0 : c0 + w]
    for i in range(i1 - 1, i0 - 1, -1):
        k, t = i - i0, length - 1 - i if reverse else i
        for c in range(w):
            dinp[c] = f32(0.0)
            dstep[c] = f32(0.0)
        douts, inps, steps, slopes = dout[k], inp[k], step[k], slope[k]
        for n in range(a.shape[0]):
            from_input, to_output = B[b, t, g, n], C[b, t, g, n]
            before, after, decays, rates, dhs, das = h[k, n], h[k + 1, n], e[k, n], a[n], dh[n], dA[n]
            of_b, of_c = f32(0.0), f32(0.0)
            for c in range(w):
                d = dhs[c] + douts[c] * to_output
                of_c += douts[c] * after[c]
                of_b += d * inps[c]
                dinp[c] += d * from_input
                d *= decays[c]
                dhs[c] = d
                d *= before[c]
                das[c] += d * steps[c]
                dstep[c] += d * rates[c]
            dB[block, b, t, n], dC[block, b, t, n] = of_b, of_c
        us, dus, ddeltas = u[b, t, c0 : c0 + w], du[b, t, c0 : c0 + w], ddelta[b, t, c0 : c0 + w]
        for c in range(w):
            dus[c] = dinp[c] * steps[c] + douts[c] * skip[c]
            value = (dinp[c] * us[c] + dstep[c] * LN_2) * slopes[c]
            ddeltas[c] = value
            dbias[c] += value
            dD[c] += douts[c] * us[c]


@_compiled()
def backward(
    first, last, width, num_blocks, u, delta, A, B, C, D, z, bias, softplus, gated, reverse, kept, dy, dend,
    du, ddelta, dA, dB, dC, dD, dz, dbias, dstart,
):  # fmt: skip
    """Gradients of the tasks ``first`` to ``last`` of :func:`forward`.

    ``dB`` and ``dC`` are ``(blocks, B, L, N)``, one for each block of channels; ``dA`` and ``dstart``
    ``(B, N, D)``; ``dD`` and ``dbias`` ``(B, D)``: blocks and entries of a batch are left to be summed.
    """
    length, dim = u.shape[1], u.shape[2]
    states, groups = A.shape[0], B.shape[2]
    h, e = np.empty((CHUNK + 1, states, width), f32), np.empty((CHUNK, states, width), f32)
    step, slope, inp = np.empty((CHUNK, width), f32), np.empty((CHUNK + 1, width), f32), np.empty((CHUNK, width), f32)
    dout, dh, a = np.empty((CHUNK, width), f32), np.empty((states, width), f32), np.empty((states, width), f32)
    sum_a, sum_d, sum_bias = np.empty((states, width), f32), np.empty(width, f32), np.empty(width, f32)
    for task in range(first, last):
        b, block, g, c0, w = _place(task, width, num_blocks, dim, groups)
        a[:, :w], dh[:, :w] = A[:, c0 : c0 + w], dend[b, :, c0 : c0 + w]
        dA[b, :, c0 : c0 + w], dD[b, c0 : c0 + w], dbias[b, c0 : c0 + w] = 0.0, 0.0, 0.0
        for chunk in range((length - 1) // CHUNK, -1, -1):
            i0, i1 = chunk * CHUNK, min(length, (chunk + 1) * CHUNK)
            h[0, :, :w] = kept[b, chunk, :, c0 : c0 + w]
            sum_a[:], sum_d[:], sum_bias[:] = 0.0, 0.0, 0.0
            _again(
                b, g, c0, w, i0, i1, u, delta, a, B, C, D, z, bias, softplus, gated, reverse, dy, dz,
                h, e, step, slope, inp, dout,
            )  # fmt: skip
            _back(
                b, block, g, c0, w, i0, i1, u, a, B, C, D, reverse, h, e, step, slope, inp, dout,
                dh, du, ddelta, sum_a, dB, dC, sum_d, sum_bias,
            )  # fmt: skip
            # Sums over all tokens are kept in double precision.
            dA[b, :, c0 : c0 + w] += sum_a[:, :w]
            dD[b, c0 : c0 + w] += sum_d[:w]
            dbias[b, c0 : c0 + w] += sum_bias[:w]
        dstart[b, :, c0 : c0 + w] = dh[:, :w]
