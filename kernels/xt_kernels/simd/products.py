"""Products of small matrices in flat arrays, whose sums stay in registers, and their transposition."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from xt_kernels.simd.memory import place_of
from xt_kernels.simd.vectors import INT32, Vector, fused, has, spread

SIDE = 16
"""Of the squares that :func:`transpose` takes."""
LANES = (64, 48, 32, 16) if has("avx512f") else (16,)
"""Widths of a tile: as many registers as leave room for its rows, widest first."""


def width(columns):
    """Lanes of a tile for so many columns: those that waste least, and of these the most."""
    return min(LANES, key=lambda lanes: (-(-columns // lanes) * lanes, -lanes))


def height(lanes):
    """Rows of a tile."""
    return 8 if has("avx512f") and lanes <= 32 else 4


@intrinsic(prefer_literal=True)
def multiply(typing, lanes, more, sizes, a, b, c):
    """``c = a b``, or ``c += a b`` if ``more`` is 1.

    ``sizes`` are the rows and columns of ``c`` and the columns of ``a``. ``a`` is an array, its first index and how far
    its rows and its columns lie apart; ``b`` and ``c``, whose rows have their numbers side by side, lack the last.
    Columns are taken ``lanes`` at a time, rows :func:`height`: there must be memory for whole tiles.
    """
    num_rows, add_up = height(lanes.literal_value), more.literal_value
    of_a, of_b, of_c = (each.types[0] for each in (a, b, c))
    vector = Vector(of_c.dtype, lanes.literal_value)
    # One variable a register, since LLVM is at a loss with vectors of no power of two.
    part = Vector(of_c.dtype, min(16, vector.lanes))
    offsets = range(0, vector.lanes, part.lanes)

    def codegen(context, builder, signature, values):
        rows, columns, depth = cgutils.unpack_tuple(builder, values[2])
        (a, a0, a_row, a_column), (b, b0, b_row), (c, c0, c_row) = (
            cgutils.unpack_tuple(builder, value) for value in values[3:]
        )
        int64, alignment = rows.type, part.dtype.bitwidth // 8
        numbers = context.make_array(of_a)(context, builder, a).data
        sums = [[cgutils.alloca_once(builder, part.llvm) for _ in offsets] for _ in range(num_rows)]

        def place(kind, array, index, offset):
            return place_of(context, builder, kind, array, builder.add(index, int64(offset)), part)

        def scaled(index, step, start):
            return builder.add(start, builder.mul(index, step))

        def each_of_c():
            for r, row in enumerate(sums):
                index = builder.add(scaled(builder.add(i, int64(r)), c_row, c0), j)
                for variable, offset in zip(row, offsets, strict=True):
                    yield variable, place(of_c, c, index, offset)

        with cgutils.for_range_slice(builder, int64(0), columns, int64(vector.lanes), int64) as (j, _):
            with cgutils.for_range_slice(builder, int64(0), rows, int64(num_rows), int64) as (i, _):
                for variable, there in each_of_c():
                    start = builder.load(there, align=alignment) if add_up else part.constant(0.0)
                    builder.store(start, variable)
                with cgutils.for_range(builder, depth) as loop:
                    index = builder.add(scaled(loop.index, b_row, b0), j)
                    factors = [builder.load(place(of_b, b, index, each), align=alignment) for each in offsets]
                    for r, row in enumerate(sums):
                        index = scaled(loop.index, a_column, scaled(builder.add(i, int64(r)), a_row, a0))
                        factor = spread(builder, part, builder.load(builder.gep(numbers, [index])))
                        for variable, other in zip(row, factors, strict=True):
                            builder.store(fused(builder, factor, other, builder.load(variable)), variable)
                for variable, there in each_of_c():
                    builder.store(builder.load(variable), there, align=alignment)
        return context.get_dummy_value()

    return types.none(lanes, more, sizes, a, b, c), codegen


@intrinsic
def transpose(typing, a, a0, a_row, b, b0, b_row):
    """Write a square of ``SIDE`` rows of ``a``, from index ``a0`` on and ``a_row`` apart, to ``b`` as columns."""
    vector = Vector(a.dtype, SIDE)

    def codegen(context, builder, signature, values):
        a_, a0, a_row, b_, b0, b_row = values
        alignment = vector.dtype.bitwidth // 8

        def places(kind, array, start, step):
            indices = (builder.add(start, builder.mul(step, step.type(r))) for r in range(SIDE))
            return [place_of(context, builder, kind, array, index, vector) for index in indices]

        rows = [builder.load(each, align=alignment) for each in places(a, a_, a0, a_row)]
        # Rows of the lower half between those of the upper, number by number, as often as 2 divides the side.
        halves = [
            ir.Constant(ir.VectorType(INT32, SIDE), [start + j // 2 + SIDE * (j % 2) for j in range(SIDE)])
            for start in (0, SIDE // 2)
        ]
        for _ in range(SIDE.bit_length() - 1):
            pairs = zip(rows[: SIDE // 2], rows[SIDE // 2 :], strict=True)
            rows = [builder.shuffle_vector(x, y, half) for x, y in pairs for half in halves]
        for row, there in zip(rows, places(b, b_, b0, b_row), strict=True):
            builder.store(row, there, align=alignment)
        return context.get_dummy_value()

    return types.none(a, types.int64, types.int64, b, types.int64, types.int64), codegen
