"""Window attention for CPUs, compiled by Numba on first use: one head of one window at a time, in the nearest caches.

Tensors are flat arrays. A task is a head and a part of the windows. The channels of a head are padded with zeros to
``D``, and the tokens of a row of logits to ``wide``, where bias keeps them from having any weight. Nothing here knows
of PyTorch.
"""

import functools

import numpy as np
from numba import njit

from xt_kernels.simd.compiled import VERSION, compiled
from xt_kernels.simd.memory import get, load, put, store
from xt_kernels.simd.products import SIDE, multiply, transpose, width
from xt_kernels.simd.vectors import add, exp2, largest, madd, maximum, mul, native_lanes, sub, total

__all__ = ["SIDE", "backward", "forward", "native_lanes", "width"]

LOG2_E, LN_2 = 1.4426950408889634, 0.6931471805599453
BLOCK = 32
"""Rows of logits worked on at a time."""
LOWEST = -1e30
"""Bias and mask are not lower: minus infinity less itself is no number."""
SMALLEST_NORM = 1e-12


@njit(inline="always")
def _padded(tokens):
    """Rows of a buffer: squares and tiles write past the last token."""
    return (tokens + SIDE - 1) // SIDE * SIDE


@njit(inline="always")
def _pack(source, start, apart, tokens, dim, rows, D):
    for i in range(tokens):
        put(rows, i, load(source, start + i * apart, dim, D))


@njit(inline="always")
def _normalize(rows, tokens, length, inverses, D):
    for i in range(tokens):
        x = get(rows, i, D)
        inverses[i] = 1 / max(np.sqrt(total(mul(x, x))), SMALLEST_NORM)
        put(rows, i, mul(x, inverses[i] * length))


@njit(inline="always")
def _turn(rows, tokens, columns, wide, D):
    for i in range(0, tokens, SIDE):
        for d in range(0, D, SIDE):
            transpose(rows, i * D + d, D, columns, d * wide + i, wide)


@njit(inline="always")
def _hide(products, rows, masks, kinds, window, at, tokens, steps, step):
    """Add the mask that a window may have to some rows of its logits."""
    kind = kinds[window % kinds.size] if kinds.size else 0
    if kind:
        first = ((kind - 1) * tokens + at) * steps
        for j in range(rows * steps):
            hidden = maximum(LOWEST, get(masks, first + j, step))
            put(products, j, madd(hidden, LOG2_E, get(products, j, step)))


@njit(inline="always")
def _logit(products, at, bias, at_bias, step):
    """Scaled products with bias, times log2(e)."""
    return madd(maximum(LOWEST, get(bias, at_bias, step)), LOG2_E, get(products, at, step))


@functools.cache
def forward(D, lanes, narrow, step):
    """Kernel for heads of ``D`` channels; ``lanes`` and ``narrow`` are the tiles of logits and of channels.

    ``sizes`` are windows, tokens, heads, channels, ``wide`` and parts; ``bias`` is ``(H, N, wide)``, ``masks``
    ``(K, N, wide)``, and ``kept`` ``(2, W, H, N)``: the largest of each row's logits (in powers of two), and 1 over the
    sum of their exponentials. Rows of logits are walked over in steps of ``step``.
    """
    version = VERSION

    def attend(task, sizes, qkv, scale, bias, masks, kinds, out, kept):
        version  # noqa: B018
        windows, tokens, heads, dim, wide, parts = sizes
        h, part = task // parts, task % parts
        apart, steps, size = 3 * heads * dim, wide // step, _padded(tokens) * D
        q, k, v = np.zeros(size, qkv.dtype), np.zeros(size, qkv.dtype), np.zeros(size, qkv.dtype)
        columns, logits = np.zeros(D * wide, qkv.dtype), np.empty(BLOCK * wide, qkv.dtype)
        mixed, inverses = np.empty(BLOCK * D, qkv.dtype), np.empty(tokens, qkv.dtype)
        for w in range(part * windows // parts, (part + 1) * windows // parts):
            start = w * tokens * apart + h * dim
            _pack(qkv, start, apart, tokens, dim, q, D)
            _pack(qkv, start + heads * dim, apart, tokens, dim, k, D)
            _pack(qkv, start + 2 * heads * dim, apart, tokens, dim, v, D)
            _normalize(q, tokens, scale[h] * LOG2_E, inverses, D)
            _normalize(k, tokens, 1.0, inverses, D)
            _turn(k, tokens, columns, wide, D)
            for i in range(0, tokens, BLOCK):
                rows = min(BLOCK, tokens - i)
                multiply(lanes, 0, (rows, wide, D), (q, i * D, D, 1), (columns, 0, wide), (logits, 0, wide))
                _hide(logits, rows, masks, kinds, w, i, tokens, steps, step)
                for r in range(rows):
                    at, at_bias, at_row = r * steps, (h * tokens + i + r) * steps, (w * heads + h) * tokens + i + r
                    top = _logit(logits, at, bias, at_bias, step)
                    put(logits, at, top)
                    for j in range(1, steps):
                        x = _logit(logits, at + j, bias, at_bias + j, step)
                        put(logits, at + j, x)
                        top = maximum(top, x)
                    most = largest(top)
                    sums = mul(top, 0.0)
                    for j in range(steps):
                        x = exp2(sub(get(logits, at + j, step), most))
                        put(logits, at + j, x)
                        sums = add(sums, x)
                    kept[at_row], kept[windows * heads * tokens + at_row] = most, 1 / total(sums)
                multiply(narrow, 0, (rows, D, tokens), (logits, 0, wide, 1), (v, 0, D), (mixed, 0, D))
                for r in range(rows):
                    weight = kept[((windows + w) * heads + h) * tokens + i + r]
                    store(out, ((w * tokens + i + r) * heads + h) * dim, dim, mul(get(mixed, r, D), weight))

    return compiled(attend)


@functools.cache
def backward(D, lanes, narrow, step):
    """Kernel of the gradients; ``dscale`` is ``(parts, H)`` in double precision, ``dbias`` ``(parts, H, N, wide)``.

    Beside forward's names, ``p`` are weights, ``g`` the gradient of what they mix and ``e`` that of logits.
    """
    version = VERSION

    def attend(task, sizes, qkv, scale, bias, masks, kinds, kept, grad, dqkv, dscale, dbias):
        version  # noqa: B018
        windows, tokens, heads, dim, wide, parts = sizes
        h, part = task // parts, task % parts
        apart, steps, size = 3 * heads * dim, wide // step, _padded(tokens) * D
        q, k, v = np.zeros(size, qkv.dtype), np.zeros(size, qkv.dtype), np.zeros(size, qkv.dtype)
        g, dk, dv = np.zeros(size, qkv.dtype), np.zeros(size, qkv.dtype), np.zeros(size, qkv.dtype)
        k_columns, v_columns = np.zeros(D * wide, qkv.dtype), np.zeros(D * wide, qkv.dtype)
        p, e = np.empty(BLOCK * wide, qkv.dtype), np.empty(BLOCK * wide, qkv.dtype)
        dq = np.empty(BLOCK * D, qkv.dtype)
        q_inverses, k_inverses = np.empty(tokens, qkv.dtype), np.empty(tokens, qkv.dtype)
        of_scale = 0.0
        for w in range(part * windows // parts, (part + 1) * windows // parts):
            start = w * tokens * apart + h * dim
            _pack(qkv, start, apart, tokens, dim, q, D)
            _pack(qkv, start + heads * dim, apart, tokens, dim, k, D)
            _pack(qkv, start + 2 * heads * dim, apart, tokens, dim, v, D)
            _pack(grad, (w * tokens * heads + h) * dim, heads * dim, tokens, dim, g, D)
            _normalize(q, tokens, scale[h] * LOG2_E, q_inverses, D)
            _normalize(k, tokens, 1.0, k_inverses, D)
            _turn(k, tokens, k_columns, wide, D)
            _turn(v, tokens, v_columns, wide, D)
            dk[:], dv[:] = 0, 0
            for i in range(0, tokens, BLOCK):
                rows = min(BLOCK, tokens - i)
                multiply(lanes, 0, (rows, wide, D), (q, i * D, D, 1), (k_columns, 0, wide), (p, 0, wide))
                _hide(p, rows, masks, kinds, w, i, tokens, steps, step)
                multiply(lanes, 0, (rows, wide, D), (g, i * D, D, 1), (v_columns, 0, wide), (e, 0, wide))
                for r in range(rows):
                    at, at_bias, at_row = r * steps, (h * tokens + i + r) * steps, (w * heads + h) * tokens + i + r
                    at_dbias = ((part * heads + h) * tokens + i + r) * steps
                    most, weight = kept[at_row], kept[windows * heads * tokens + at_row]
                    sums = mul(get(e, at, step), 0.0)
                    for j in range(steps):
                        x = _logit(p, at + j, bias, at_bias + j, step)
                        x = mul(exp2(sub(x, most)), weight)
                        put(p, at + j, x)
                        sums = madd(x, get(e, at + j, step), sums)
                    # More exact than through (g · out): the rows of the errors sum to 0.
                    mean = total(sums)
                    for j in range(steps):
                        x = mul(get(p, at + j, step), sub(get(e, at + j, step), mean))
                        put(e, at + j, x)
                        put(dbias, at_dbias + j, add(x, get(dbias, at_dbias + j, step)))
                multiply(narrow, 0, (rows, D, tokens), (e, 0, wide, 1), (k, 0, D), (dq, 0, D))
                multiply(narrow, 1, (tokens, D, rows), (e, 0, 1, wide), (q, i * D, D), (dk, 0, D))
                multiply(narrow, 1, (tokens, D, rows), (p, 0, 1, wide), (g, i * D, D), (dv, 0, D))
                for r in range(rows):
                    there, inverse, y = start + (i + r) * apart, q_inverses[i + r], get(dq, r, D)
                    x = mul(load(qkv, there, dim, D), inverse)
                    along = total(mul(x, y))
                    of_scale += along
                    store(dqkv, there, dim, mul(sub(y, mul(x, along)), inverse * scale[h]))
            for j in range(tokens):
                there, x, y = start + j * apart, get(k, j, D), mul(get(dk, j, D), LN_2)
                store(dqkv, there + heads * dim, dim, mul(sub(y, mul(x, total(mul(x, y)))), k_inverses[j]))
                store(dqkv, there + 2 * heads * dim, dim, get(dv, j, D))
        dscale[part * heads + h] = of_scale

    return compiled(attend)
