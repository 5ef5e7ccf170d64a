"""Vectors from flat arrays and back: an index counts numbers, a row counts vectors."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from xt_kernels.simd.vectors import INT32, Vector


def place_of(context, b, kind, array, index, vector):
    """Pointer to a vector in a flat array."""
    return b.bitcast(b.gep(context.make_array(kind)(context, b, array).data, [index]), vector.llvm.as_pointer())


def _masked(b, name, vector, result, place, count, more):
    """Load or store of the lanes below ``count``."""
    numbers = ir.VectorType(INT32, vector.lanes)
    first = b.insert_element(ir.Constant(numbers, ir.Undefined), b.trunc(count, INT32), INT32(0))
    counts = b.shuffle_vector(first, first, ir.Constant(numbers, [0] * vector.lanes))
    mask = b.icmp_signed("<", ir.Constant(numbers, list(range(vector.lanes))), counts)
    align = INT32(vector.dtype.bitwidth // 8)
    values = [place, align, mask, more] if name == "load" else [more, place, align, mask]
    signature = ir.FunctionType(result, [each.type for each in values])
    name = f"llvm.masked.{name}.v{vector.lanes}f{vector.dtype.bitwidth}.p0"
    return b.call(cgutils.get_or_insert_function(b.module, signature, name), values)


@intrinsic(prefer_literal=True)
def load(typing, array, index, count, lanes):
    """The first ``count`` of ``lanes`` numbers from ``index`` on, the others zero."""
    vector = Vector(array.dtype, lanes.literal_value)

    def codegen(context, b, signature, values):
        place = place_of(context, b, array, values[0], values[1], vector)
        with b.if_else(b.icmp_signed(">=", values[2], values[2].type(vector.lanes))) as (then, otherwise):
            with then:
                whole, whole_block = b.load(place, align=vector.dtype.bitwidth // 8), b.block
            with otherwise:
                part = _masked(b, "load", vector, vector.llvm, place, values[2], vector.constant(0.0))
                part_block = b.block
        value = b.phi(vector.llvm)
        value.add_incoming(whole, whole_block)
        value.add_incoming(part, part_block)
        return value

    return vector(array, types.int64, types.int64, lanes), codegen


@intrinsic
def store(typing, array, index, count, vector):
    """Write the first ``count`` numbers of a vector from ``index`` on."""

    def codegen(context, b, signature, values):
        place = place_of(context, b, array, values[0], values[1], vector)
        with b.if_else(b.icmp_signed(">=", values[2], values[2].type(vector.lanes))) as (then, otherwise):
            with then:
                b.store(values[3], place, align=vector.dtype.bitwidth // 8)
            with otherwise:
                _masked(b, "store", vector, ir.VoidType(), place, values[2], values[3])
        return context.get_dummy_value()

    return types.none(array, types.int64, types.int64, vector), codegen


@intrinsic(prefer_literal=True)
def get(typing, array, row, lanes):
    """Read a row of ``lanes`` numbers."""
    vector = Vector(array.dtype, lanes.literal_value)

    def codegen(context, b, signature, values):
        index = b.mul(values[1], values[1].type(vector.lanes))
        return b.load(place_of(context, b, array, values[0], index, vector), align=vector.dtype.bitwidth // 8)

    return vector(array, types.int64, lanes), codegen


@intrinsic
def put(typing, array, row, vector):
    """Write a row."""

    def codegen(context, b, signature, values):
        index = b.mul(values[1], values[1].type(vector.lanes))
        b.store(values[2], place_of(context, b, array, values[0], index, vector), align=vector.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.none(array, types.int64, vector), codegen


@intrinsic(prefer_literal=True)
def prefetch(typing, array, index, lanes, write):
    """Ask for ``lanes`` numbers from ``index`` on, to write if ``write`` is 1; places outside the array do no harm."""

    def codegen(context, b, signature, values):
        data = context.make_array(array)(context, b, values[0]).data
        kind = ir.FunctionType(ir.VoidType(), [data.type, INT32, INT32, INT32])
        function = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")
        for start in range(0, lanes.literal_value, 512 // array.dtype.bitwidth):  # lines of 64 bytes
            place = b.gep(data, [b.add(values[1], values[1].type(start))])
            b.call(function, [place, INT32(write.literal_value), INT32(3), INT32(1)])
        return context.get_dummy_value()

    return types.none(array, types.int64, lanes, write), codegen
