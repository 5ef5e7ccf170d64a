"""The selective scan in Triton: chunks of tokens in parallel, the state carried between them.

Three passes each way: what a chunk adds to a state of zero, the states (or their gradients) at all cuts, then every
chunk from its own. A program holds the states of some channels in registers, all N of a channel in one thread, and
walks over its tokens. Backward starts from states kept before every eighth token and runs those in between again.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

CHANNELS = {"forward": 64, "backward": 32}
"""Channels of a program of one warp. Backward with 16 spills no register, and takes 2.3 times as long (H200)."""
KEPT = 8
"""Tokens between two kept states."""
SHORTEST, CUTS, ENOUGH = 64, 512, 8192
"""Tokens of a chunk at least, chunks at most while they grow, and programs that fill a GPU a few times over."""
LENGTHS = ["length", "chunk", "num_chunks", "num_kept"]


@triton.jit
def _row(pointer, place, inside):
    return tl.load(pointer + place, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _whole_row(pointer, place, inside, WHOLE: tl.constexpr):
    """A row of which all channels are ``inside`` if ``WHOLE``, so that nothing is asked of each."""
    if WHOLE:
        return tl.load(pointer + place).to(tl.float32)
    return _row(pointer, place, inside)


@triton.jit
def _channels(dim, groups, WIDTH: tl.constexpr):
    """Group, channels, and which of them exist, of this program."""
    per_group = tl.num_programs(0) // groups
    g = tl.program_id(0) // per_group
    inner = tl.program_id(0) % per_group * WIDTH + tl.arange(0, WIDTH)
    return g, g * (dim // groups) + inner, inner < dim // groups


@triton.jit
def _rates(A, chans, inside, STATES: tl.constexpr):
    """``A`` for powers of 2, a vector of channels for each state: registers of one thread, and numbers beside them."""
    rates = ()
    for n in tl.static_range(STATES):
        rates += (_row(A, chans * STATES + n, inside) * 1.4426950408889634,)
    return rates


@triton.jit
def _walk(length, chunk, num_chunks, REVERSE: tl.constexpr):
    """Row of the chunk of this program, its first token, how many it has, and the way from one to the next."""
    c, at = tl.program_id(1), tl.program_id(2).to(tl.int64)
    count = tl.minimum(chunk, length - c * chunk)
    return at * num_chunks + c, at * length + _token(c * chunk, length, REVERSE), count, -1 if REVERSE else 1


@triton.jit
def _softplus(x):
    # max(x, 0) + log(1 + e), which is e + e² (a polynomial of least relative error): digits of a small e are kept.
    e = tl.exp2(-tl.abs(x) * 1.4426950408889634)
    p = 0.005364814307540655 * e - 0.030065754428505898
    p = p * e + 0.07920447736978531
    p = p * e - 0.13753798604011536
    p = p * e + 0.1915365308523178
    p = p * e - 0.24857163429260254
    p = p * e + 0.3332132399082184
    p = p * e - 0.49999648332595825
    p = p * e + 1.0
    return p * e + tl.maximum(x, 0.0)


@triton.jit
def _token(i, length, REVERSE: tl.constexpr):
    if REVERSE:
        i = length - 1 - i
    return tl.cast(i, tl.int64)


@triton.jit
def _step(raw, shift, inside, SOFTPLUS: tl.constexpr):
    x = raw + shift
    if SOFTPLUS:
        x = _softplus(x)
    return tl.where(inside, x, 0.0)


@triton.jit
def _inputs_at(
    i, u, delta, B, shift, at, length, dim, groups, states, g, chans, ns, inside,
    SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Step before and after softplus, input and its weights of token ``i``; zeros if there is no such token."""
    there = i < length
    t = at * length + _token(tl.where(there, i, 0), length, REVERSE)
    raw = _row(delta, t * dim + chans, inside & there) + shift
    step = raw
    if SOFTPLUS:
        step = _softplus(raw)
    x = _row(u, t * dim + chans, inside & there)
    return raw, tl.where(inside & there, step, 0.0), x, _row(B, (t * groups + g) * states + ns, (ns < states) & there)


@triton.jit
def _pull(
    i, raw, step, x, b, before, now, grad, of_rates, of_skip, of_bias, rates, skip,
    C, z, dy, du, ddelta, dB, dC, dz, at, row, length, dim, groups, states, g, chans, ns, inside,
    SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """Take the gradient of the state after token ``i`` to that of the state before it; write those of its inputs."""
    there = i < length
    token = _token(tl.where(there, i, 0), length, REVERSE)
    t = at * length + token
    place, exists, known = t * dim + chans, inside & there, (ns < states) & there
    to_output = _row(C, (t * groups + g) * states + ns, known)
    dout = _row(dy, place, exists)
    if GATED:
        gate = _row(z, place, exists)
        part = 1.0 / (1.0 + tl.exp2(-gate * 1.4426950408889634))
        out = tl.sum(now * to_output[:, None], 0) + skip * x
        tl.store(dz + place, dout * out * part * (1.0 + gate * (1.0 - part)), mask=exists)
        dout *= gate * part
    d = grad + dout[None, :] * to_output[:, None]
    row = ((row + token) * groups + g) * states + ns
    tl.store(dC + row, tl.sum(dout[None, :] * now, 1), mask=known)
    tl.store(dB + row, tl.sum(d * (step * x)[None, :], 1), mask=known)
    of_input = tl.sum(d * b[:, None], 0)
    grad = d * tl.exp2(step[None, :] * rates)
    d = grad * before
    of_step = tl.sum(d * rates, 0) * 0.6931471805599453 + of_input * x
    if SOFTPLUS:
        of_step *= 1.0 / (1.0 + tl.exp2(-raw * 1.4426950408889634))
    of_step = tl.where(exists, of_step, 0.0)
    tl.store(du + place, of_input * step + dout * skip, mask=exists)
    tl.store(ddelta + place, of_step, mask=exists)
    return grad, of_rates + d * step[None, :], of_skip + dout * x, of_bias + of_step


@triton.jit(do_not_specialize=LENGTHS)
def _local(
    u, delta, A, B, bias, added, total, length, chunk, num_chunks, dim, groups,
    WIDTH: tl.constexpr, STATES: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """What each chunk adds to a state of zero ``(B, chunks, N, D)``, and the sum of its steps ``(B, chunks, D)``."""
    g, chans, inside = _channels(dim, groups, WIDTH)
    rates = _rates(A, chans, inside, STATES)
    shift = _row(bias, chans, inside)
    state, sum = (), tl.zeros((WIDTH,), tl.float32)
    for _ in tl.static_range(STATES):
        state += (sum,)
    row, t, count, way = _walk(length, chunk, num_chunks, REVERSE)
    u, delta, B = u + t * dim, delta + t * dim, B + (t * groups + g) * STATES
    next_raw, next_x = _whole_row(delta, chans, inside, WHOLE), _whole_row(u, chans, inside, WHOLE)
    for i in range(count):
        raw, x = next_raw, next_x
        move = tl.where(i + 1 < count, way, 0)
        u, delta = u + move * dim, delta + move * dim
        next_raw, next_x = _whole_row(delta, chans, inside, WHOLE), _whole_row(u, chans, inside, WHOLE)
        step = raw + shift
        if SOFTPLUS:
            step = _softplus(step)
        x *= step
        sum += step
        after = ()
        for n in tl.static_range(STATES):
            after += (tl.exp2(step * rates[n]) * state[n] + x * tl.load(B + n).to(tl.float32),)
        state = after
        B += way * groups * STATES
    for n in tl.static_range(STATES):
        tl.store(added + (row * STATES + n) * dim + chans, state[n], mask=inside)
    tl.store(total + row * dim + chans, sum, mask=inside)


@triton.jit(do_not_specialize=LENGTHS)
def _carry(A, added, total, start, end, num_chunks, dim, states, WIDTH: tl.constexpr, BACK: tl.constexpr):
    """Replace what chunks add by the states before them (after them, and from the last chunk, if ``BACK``)."""
    n, at = tl.program_id(1), tl.program_id(2).to(tl.int64)
    chans = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    inside = chans < dim
    rates = _row(A, chans * states + n, inside) * 1.4426950408889634
    state = _row(start, (at * states + n) * dim + chans, inside)
    for first in range(0, num_chunks, 8):
        rows, more, decay = (), (), ()
        for k in tl.static_range(8):  # all eight are on their way before the first is needed
            place = tl.minimum(first + k, num_chunks - 1)
            rows += (at * num_chunks + (num_chunks - 1 - place if BACK else place),)
            more += (_row(added, (rows[k] * states + n) * dim + chans, inside),)
            decay += (tl.exp2(_row(total, rows[k] * dim + chans, inside) * rates),)
        for k in tl.static_range(8):
            exists = first + k < num_chunks
            tl.store(added + (rows[k] * states + n) * dim + chans, state, mask=inside & exists)
            state = tl.where(exists, decay[k] * state + more[k], state)
    tl.store(end + (at * states + n) * dim + chans, state, mask=inside)


@triton.jit(do_not_specialize=LENGTHS)
def _outputs(
    u, delta, A, B, C, D, z, bias, start, y, kept, length, chunk, num_chunks, num_kept, dim, groups,
    WIDTH: tl.constexpr, STATES: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr, WHOLE: tl.constexpr,
    GATED: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """Every chunk from its own state."""
    g, chans, inside = _channels(dim, groups, WIDTH)
    rates = _rates(A, chans, inside, STATES)
    shift, skip = _row(bias, chans, inside), _row(D, chans, inside)
    row, t, count, way = _walk(length, chunk, num_chunks, REVERSE)
    state = ()
    for n in tl.static_range(STATES):
        state += (_row(start, (row * STATES + n) * dim + chans, inside),)
    u, delta, z, y = u + t * dim, delta + t * dim, z + t * dim, y + t * dim
    B, C = B + (t * groups + g) * STATES, C + (t * groups + g) * STATES
    if KEPT:
        kept += tl.program_id(2).to(tl.int64) * num_kept * STATES * dim
    next_raw, next_x = _whole_row(delta, chans, inside, WHOLE), _whole_row(u, chans, inside, WHOLE)
    next_gate = _whole_row(z, chans, inside, WHOLE)
    for i in range(count):
        raw, x, gate = next_raw, next_x, next_gate
        move = tl.where(i + 1 < count, way, 0)
        u, delta = u + move * dim, delta + move * dim
        next_raw, next_x = _whole_row(delta, chans, inside, WHOLE), _whole_row(u, chans, inside, WHOLE)
        if GATED:
            z += move * dim
            next_gate = _whole_row(z, chans, inside, WHOLE)
        if KEPT:
            if i % KEPT == 0:
                place = ((tl.program_id(1) * chunk + i) // KEPT).to(tl.int64) * STATES * dim
                for n in tl.static_range(STATES):
                    tl.store(kept + place + n * dim + chans, state[n], mask=inside)
        step = raw + shift
        if SOFTPLUS:
            step = _softplus(step)
        out = skip * x
        x *= step
        after = ()
        for n in tl.static_range(STATES):
            now = tl.exp2(step * rates[n]) * state[n] + x * tl.load(B + n).to(tl.float32)
            out += now * tl.load(C + n).to(tl.float32)
            after += (now,)
        state = after
        if GATED:
            out *= gate / (1.0 + tl.exp2(-gate * 1.4426950408889634))
        tl.store(y + chans, out.to(y.dtype.element_ty), mask=inside)
        y += way * dim
        B, C = B + way * groups * STATES, C + way * groups * STATES


@triton.jit(do_not_specialize=LENGTHS)
def _local_back(
    delta, A, C, z, bias, dy, added, total, length, chunk, num_chunks, dim, groups, states,
    WIDTH: tl.constexpr, STATES: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """What each chunk adds to the gradient of the state before it, and the sum of its steps."""
    c, at = tl.program_id(1), tl.program_id(2).to(tl.int64)
    per_group = tl.num_programs(0) // groups
    g = tl.program_id(0) // per_group
    inner = tl.program_id(0) % per_group * WIDTH + tl.arange(0, WIDTH)
    inside, chans = inner < dim // groups, g * (dim // groups) + inner
    ns = tl.arange(0, STATES)
    both = (ns < states)[:, None] & inside[None, :]
    rates = tl.load(A + chans[None, :] * states + ns[:, None], mask=both, other=0.0).to(tl.float32) * 1.4426950408889634
    shift = _row(bias, chans, inside)
    grad, sum = tl.zeros((STATES, WIDTH), tl.float32), tl.zeros((WIDTH,), tl.float32)
    last = tl.minimum(length, (c + 1) * chunk) - 1
    t = at * length + _token(last, length, REVERSE)
    next_raw, next_dout = _row(delta, t * dim + chans, inside), _row(dy, t * dim + chans, inside)
    next_c, next_gate = _row(C, (t * groups + g) * states + ns, ns < states), _row(z, t * dim + chans, inside)
    for k in range(last - c * chunk + 1):
        raw, dout, to_output, gate = next_raw, next_dout, next_c, next_gate
        t = at * length + _token(tl.maximum(last - k - 1, c * chunk), length, REVERSE)
        next_raw, next_dout = _row(delta, t * dim + chans, inside), _row(dy, t * dim + chans, inside)
        next_c = _row(C, (t * groups + g) * states + ns, ns < states)
        step = _step(raw, shift, inside, SOFTPLUS)
        if GATED:
            next_gate = _row(z, t * dim + chans, inside)
            dout *= gate / (1.0 + tl.exp2(-gate * 1.4426950408889634))
        grad = tl.exp2(step[None, :] * rates) * (grad + dout[None, :] * to_output[:, None])
        sum += step
    row = at * num_chunks + c
    tl.store(added + (row * states + ns[:, None]) * dim + chans[None, :], grad, mask=both)
    tl.store(total + row * dim + chans, sum, mask=inside)


@triton.jit(do_not_specialize=LENGTHS)
def _gradients(
    u, delta, A, B, C, D, z, bias, dy, kept, after, du, ddelta, dA, dB, dC, dD, dz, dbias,
    length, chunk, num_chunks, num_kept, dim, groups, states,
    WIDTH: tl.constexpr, STATES: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr, GATED: tl.constexpr,
    KEPT: tl.constexpr,
):  # fmt: skip
    """Every chunk backwards from the gradient of the state after it."""
    c, at = tl.program_id(1), tl.program_id(2).to(tl.int64)
    per_group = tl.num_programs(0) // groups
    g = tl.program_id(0) // per_group
    inner = tl.program_id(0) % per_group * WIDTH + tl.arange(0, WIDTH)
    inside, chans = inner < dim // groups, g * (dim // groups) + inner
    ns = tl.arange(0, STATES)
    both = (ns < states)[:, None] & inside[None, :]
    rates = tl.load(A + chans[None, :] * states + ns[:, None], mask=both, other=0.0).to(tl.float32) * 1.4426950408889634
    shift, skip = _row(bias, chans, inside), _row(D, chans, inside)
    row = at * num_chunks + c
    grad = tl.load(after + (row * states + ns[:, None]) * dim + chans[None, :], mask=both, other=0.0)
    of_rates = tl.zeros((STATES, WIDTH), tl.float32)
    of_skip, of_bias = tl.zeros((WIDTH,), tl.float32), tl.zeros((WIDTH,), tl.float32)
    first = c * chunk // KEPT
    pieces = tl.cdiv(tl.minimum(length, (c + 1) * chunk), KEPT) - first
    part = (tl.program_id(0) % per_group * tl.num_programs(2) + at) * length
    for k in range(pieces):
        piece = first + pieces - 1 - k
        where = ((at * num_kept + piece) * states + ns[:, None]) * dim + chans[None, :]
        for half in range(2):  # the later four tokens first
            state0 = tl.load(kept + where, mask=both, other=0.0)
            i = piece * KEPT + (1 - half) * 4
            for j in range(piece * KEPT, i):
                _, step0, x0, b0 = _inputs_at(
                    j, u, delta, B, shift, at, length, dim, groups, states, g, chans, ns, inside, SOFTPLUS, REVERSE
                )
                state0 = tl.exp2(step0[None, :] * rates) * state0 + (step0 * x0)[None, :] * b0[:, None]
            raw0, step0, x0, b0 = _inputs_at(
                i + 0, u, delta, B, shift, at, length, dim, groups, states, g, chans, ns, inside, SOFTPLUS, REVERSE
            )
            raw1, step1, x1, b1 = _inputs_at(
                i + 1, u, delta, B, shift, at, length, dim, groups, states, g, chans, ns, inside, SOFTPLUS, REVERSE
            )
            raw2, step2, x2, b2 = _inputs_at(
                i + 2, u, delta, B, shift, at, length, dim, groups, states, g, chans, ns, inside, SOFTPLUS, REVERSE
            )
            raw3, step3, x3, b3 = _inputs_at(
                i + 3, u, delta, B, shift, at, length, dim, groups, states, g, chans, ns, inside, SOFTPLUS, REVERSE
            )
            state1 = tl.exp2(step0[None, :] * rates) * state0 + (step0 * x0)[None, :] * b0[:, None]
            state2 = tl.exp2(step1[None, :] * rates) * state1 + (step1 * x1)[None, :] * b1[:, None]
            state3 = tl.exp2(step2[None, :] * rates) * state2 + (step2 * x2)[None, :] * b2[:, None]
            state4 = tl.exp2(step3[None, :] * rates) * state3 + (step3 * x3)[None, :] * b3[:, None]
            grad, of_rates, of_skip, of_bias = _pull(
                i + 3, raw3, step3, x3, b3, state3, state4, grad, of_rates, of_skip, of_bias, rates, skip,
                C, z, dy, du, ddelta, dB, dC, dz, at, part, length, dim, groups, states, g, chans, ns, inside,
                SOFTPLUS, REVERSE, GATED,
            )  # fmt: skip
            grad, of_rates, of_skip, of_bias = _pull(
                i + 2, raw2, step2, x2, b2, state2, state3, grad, of_rates, of_skip, of_bias, rates, skip,
                C, z, dy, du, ddelta, dB, dC, dz, at, part, length, dim, groups, states, g, chans, ns, inside,
                SOFTPLUS, REVERSE, GATED,
            )  # fmt: skip
            grad, of_rates, of_skip, of_bias = _pull(
                i + 1, raw1, step1, x1, b1, state1, state2, grad, of_rates, of_skip, of_bias, rates, skip,
                C, z, dy, du, ddelta, dB, dC, dz, at, part, length, dim, groups, states, g, chans, ns, inside,
                SOFTPLUS, REVERSE, GATED,
            )  # fmt: skip
            grad, of_rates, of_skip, of_bias = _pull(
                i + 0, raw0, step0, x0, b0, state0, state1, grad, of_rates, of_skip, of_bias, rates, skip,
                C, z, dy, du, ddelta, dB, dC, dz, at, part, length, dim, groups, states, g, chans, ns, inside,
                SOFTPLUS, REVERSE, GATED,
            )  # fmt: skip
    row = at * num_chunks + c
    tl.store(dA + (row * states + ns[:, None]) * dim + chans[None, :], of_rates, mask=both)
    tl.store(dD + row * dim + chans, of_skip, mask=inside)
    tl.store(dbias + row * dim + chans, of_bias, mask=inside)


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
    sizes = _sizes(u, A, B)
    u, delta, A, B, C, D, z, bias = _inputs(u, delta, A, B, C, D, z, delta_bias)
    width = CHANNELS["forward"] if A.shape[1] <= 16 else 32
    per_group, rest = divmod(dim // B.shape[2], width)
    programs = B.shape[2] * (per_group + (rest > 0))
    chunk, num_chunks = _cut(length, batch * programs)
    grid = (programs, num_chunks, batch)
    flags = {
        "WIDTH": width, "STATES": A.shape[1], "SOFTPLUS": delta_softplus, "REVERSE": reverse, "WHOLE": rest == 0,
        "num_warps": 1,
    }  # fmt: skip
    states = u.new_empty(batch, num_chunks, A.shape[1], dim, dtype=torch.float32)
    total = u.new_empty(batch, num_chunks, dim, dtype=torch.float32)
    start = u.new_zeros(batch, A.shape[1], dim, dtype=torch.float32)
    if initial_state is not None:
        start.copy_(initial_state.transpose(1, 2))
    end = torch.empty_like(start)
    _local[grid](u, delta, A, B, bias, states, total, length, chunk, num_chunks, *sizes[:2], **flags)
    _carry[(triton.cdiv(dim, 128), A.shape[1], batch)](
        A, states, total, start, end, num_chunks, dim, A.shape[1], WIDTH=128, BACK=False
    )
    y = torch.empty_like(u)
    kept = u.new_empty(kept_shape(u, A, keep), dtype=torch.float32)
    _outputs[grid](
        u, delta, A, B, C, D, z, bias, states, y, kept, length, chunk, num_chunks, kept.shape[1], *sizes[:2],
        GATED=z is not u, KEPT=KEPT if keep else 0, **flags,
    )  # fmt: skip
    return y, end.transpose(1, 2).contiguous(), kept


def kept_shape(u: Tensor, A: Tensor, keep: bool) -> tuple[int, ...]:
    """Of the third result of :func:`forward`: a state for every eighth token."""
    return u.shape[0], -(-u.shape[1] // KEPT) if keep else 0, A.shape[1], u.shape[2]


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
    sizes = _sizes(u, A, B)
    states, groups = A.shape[1], B.shape[2]
    u, delta, A, B, C, D, z, bias = _inputs(u, delta, A, B, C, D, z, delta_bias)
    flags = {"SOFTPLUS": delta_softplus, "REVERSE": reverse, "GATED": z is not u}
    options = _options("backward", A)
    per_group = triton.cdiv(dim // groups, options["WIDTH"])
    chunk, num_chunks = _cut(length, batch * groups * per_group)
    grid = (groups * per_group, num_chunks, batch)
    dy, dend = dy.contiguous(), dend.transpose(1, 2).float().contiguous()
    single: dict[str, Any] = {"dtype": torch.float32}
    after, total = (
        u.new_empty((batch, num_chunks, states, dim), **single),
        u.new_empty((batch, num_chunks, dim), **single),
    )
    dstart = torch.empty_like(dend)
    cut = (length, chunk, num_chunks)
    _local_back[grid](delta, A, C, z, bias, dy, after, total, *cut, *sizes, **options, **flags)
    _carry[(triton.cdiv(dim, 128), states, batch)](
        A, after, total, dend, dstart, num_chunks, dim, states, WIDTH=128, BACK=True
    )
    du, ddelta, dz = (u.new_empty(u.shape, **single) for _ in range(3))
    db, dc = (u.new_empty((per_group, *B.shape), **single) for _ in range(2))
    da = torch.empty_like(after)
    of_skip, of_bias = (u.new_empty((batch, num_chunks, dim), **single) for _ in range(2))
    _gradients[grid](
        u, delta, A, B, C, D, z, bias, dy, kept, after, du, ddelta, da, db, dc, of_skip, dz, of_bias,
        *cut, kept.shape[1], *sizes, KEPT=KEPT, **options, **flags,
    )  # fmt: skip
    return (
        du, ddelta, da.sum((0, 1)).T, db.sum(0), dc.sum(0), of_skip.sum((0, 1)), dz, of_bias.sum((0, 1)),
        dstart.transpose(1, 2),
    )  # fmt: skip


def _sizes(u: Tensor, A: Tensor, B: Tensor) -> tuple[int, int, int]:
    return u.shape[2], B.shape[2], A.shape[1]


def _inputs(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, bias: Tensor | None
) -> list[Tensor]:
    """Contiguous; ``u`` in place of a gate that is not there, zeros in place of the others."""
    u = u.contiguous()
    zeros = u.new_zeros(u.shape[2])
    given = (delta, A, B, C, zeros if D is None else D, u if z is None else z, zeros if bias is None else bias)
    return [u, *(each.contiguous() for each in given)]


def _options(way: str, A: Tensor) -> dict[str, Any]:
    return {"WIDTH": CHANNELS[way], "STATES": max(2, triton.next_power_of_2(A.shape[1])), "num_warps": 1}


def _cut(length: int, programs: int) -> tuple[int, int]:
    """Tokens of a chunk, a multiple of ``KEPT``, and their number, for so many programs beside one another."""
    chunk = max(SHORTEST, length // CUTS, length * programs // ENOUGH)
    chunk = triton.cdiv(chunk, KEPT) * KEPT
    return chunk, triton.cdiv(length, chunk)
