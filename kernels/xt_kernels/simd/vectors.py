"""Vectors of numbers as a type of Numba, so that a kernel says which numbers move together instead of hoping for it.

A vector is one of LLVM, of any width: LLVM cuts it into the registers of the machine. Operations on vectors take plain
numbers too, which they spread.
"""

from functools import cache, partial, reduce

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic, models, register_model

FLAGS = ("contract",)
"""Fused multiply-adds. Never `reassoc`, which cancels the rounding constant of :func:`_exp2` against itself."""
LLVM_TYPE = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
INT32 = ir.IntType(32)
LOG2_E = 1.4426950408889634
EXP2 = (1.3264726e-3, 9.6715130e-3, 5.5507336e-2, 2.4022242e-1, 6.9314700e-1, 1.0)
"""2 to the power of [-0.5, 0.5], highest power first: relative error 1e-7, and exact at 0, where slow states live."""
ATANH = (1 / 13, 1 / 11, 1 / 9, 1 / 7, 1 / 5, 1 / 3, 1.0)
"""log((1 + s) / (1 - s)) / 2s in powers of s², for s up to 1/3."""


@cache
def has(feature):
    """Whether Numba compiles for a processor with these instructions."""
    asked = config.CPU_FEATURES
    return f"+{feature}" in (llvm.get_host_cpu_features().flatten() if asked is None else asked).split(",")


def native_lanes():
    """Numbers of fp32 in four registers, whose chains of operations hide each other's latency."""
    return next((lanes for name, lanes in (("avx512f", 64), ("avx2", 32)) if has(name)), 16)


class Vector(types.Type):  # type: ignore[misc]
    """``lanes`` numbers of ``dtype``."""

    def __init__(self, dtype, lanes):
        self.dtype, self.lanes = dtype, lanes
        super().__init__(f"Vector({dtype} x {lanes})")

    @property
    def llvm(self):
        """Type of the vector in LLVM."""
        return ir.VectorType(LLVM_TYPE[self.dtype], self.lanes)

    def constant(self, value):
        """A vector that has ``value`` everywhere."""
        value = float(np.float32(value)) if self.dtype == types.float32 else value
        return ir.Constant(self.llvm, [value] * self.lanes)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager, kind):
        super().__init__(manager, kind, kind.llvm)


def fused(b, x, y, z):
    """Instruction of x · y + z."""
    return b.fadd(b.fmul(x, y, flags=FLAGS), z, flags=FLAGS)


def _polynomial(b, kind, x, coefficients):
    value = kind.constant(coefficients[0])
    for each in coefficients[1:]:
        value = fused(b, value, x, kind.constant(each))
    return value


def _call(b, name, kind, *values):
    """An intrinsic of LLVM on vectors."""
    suffix = f"v{kind.lanes}f{kind.dtype.bitwidth}"
    signature = ir.FunctionType(kind.llvm, [kind.llvm] * len(values))
    return b.call(cgutils.get_or_insert_function(b.module, signature, f"llvm.{name}.{suffix}"), values)


def _exp2(b, kind, x):
    if kind.dtype == types.float64:
        return _call(b, "exp", kind, b.fmul(x, kind.constant(1 / LOG2_E)))
    if kind.lanes % 16 == 0 and has("avx512f"):
        power = _call(b, "rint", kind, x)
        return _scale(b, kind, _polynomial(b, kind, b.fsub(x, power), EXP2), power)
    integers = ir.VectorType(INT32, kind.lanes)
    # The order of the operands keeps a NaN. -127 gives 0, and 128 infinity.
    for limit, sign in ((-127.0, ">"), (128.0, "<")):
        x = b.select(b.fcmp_ordered(sign, kind.constant(limit), x), kind.constant(limit), x)
    # Adding 1.5 · 2²³ rounds to an integer, which then stands in the low bits.
    rounding = kind.constant(12582912.0)
    shifted = b.fadd(x, rounding)
    value = _polynomial(b, kind, b.fsub(x, b.fsub(shifted, rounding)), EXP2)
    exponent = b.shl(b.bitcast(shifted, integers), ir.Constant(integers, [23] * kind.lanes))
    return b.bitcast(b.add(b.bitcast(value, integers), exponent), kind.llvm)


def _scale(b, kind, x, power):
    """Multiply by 2 to an integral power with the instruction of AVX-512, which knows its own limits."""
    part = ir.VectorType(ir.FloatType(), 16)
    signature = ir.FunctionType(part, [part, part, part, ir.IntType(16), INT32])
    function = cgutils.get_or_insert_function(b.module, signature, "llvm.x86.avx512.mask.scalef.ps.512")
    parts = []
    for start in range(0, kind.lanes, 16):
        pick = ir.Constant(ir.VectorType(INT32, 16), list(range(start, start + 16)))
        values = [b.shuffle_vector(each, each, pick) for each in (x, power)]
        parts.append(b.call(function, [*values, ir.Constant(part, [0.0] * 16), ir.IntType(16)(-1), INT32(4)]))
    while len(parts) > 1:
        width = 2 * parts[0].type.count
        pick = ir.Constant(ir.VectorType(INT32, width), list(range(width)))
        parts = [b.shuffle_vector(low, high, pick) for low, high in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _exp(b, kind, x):
    if kind.dtype == types.float64:
        return _call(b, "exp", kind, x)
    return _exp2(b, kind, b.fmul(x, kind.constant(LOG2_E)))


def _log1p(b, kind, x):
    """Log of 1 + x for x in [0, 1], with all its digits down to 0."""
    one = kind.constant(1.0)
    if kind.dtype == types.float64:
        above = b.fadd(one, x)
        exact = b.fdiv(b.fmul(_call(b, "log", kind, above), x), b.fsub(above, one))
        return b.select(b.fcmp_ordered("==", above, one), x, exact)
    s = b.fdiv(x, b.fadd(x, kind.constant(2.0)))
    return b.fmul(b.fadd(s, s), _polynomial(b, kind, b.fmul(s, s), ATANH))


def _sigmoid(b, kind, x):
    one = kind.constant(1.0)
    return b.fdiv(one, b.fadd(one, _exp(b, kind, b.fneg(x))))


def _softplus(b, kind, x):
    small, zero = _exp(b, kind, b.fneg(_call(b, "fabs", kind, x))), kind.constant(0.0)
    return b.fadd(b.select(b.fcmp_ordered(">", zero, x), zero, x), _log1p(b, kind, small))


def _maximum(b, x, y):
    return b.select(b.fcmp_ordered(">", x, y), x, y)


def spread(b, kind, number):
    """A vector that has a number of the program everywhere."""
    first = b.insert_element(ir.Constant(kind.llvm, ir.Undefined), number, INT32(0))
    return b.shuffle_vector(first, first, ir.Constant(ir.VectorType(INT32, kind.lanes), [0] * kind.lanes))


def _operation(emit, kinds):
    """Signature and code of an operation whose instructions ``emit`` writes."""
    vector = next(kind for kind in kinds if isinstance(kind, Vector))

    def codegen(context, b, signature, values):
        vectors = [
            value if isinstance(kind, Vector) else spread(b, vector, context.cast(b, value, kind, vector.dtype))
            for kind, value in zip(kinds, values, strict=True)
        ]
        return emit(b, vector, *vectors)

    return vector(*kinds), codegen


def _unary(emit):
    return intrinsic(lambda context, x: _operation(emit, (x,)))


def _binary(emit):
    return intrinsic(lambda context, x, y: _operation(emit, (x, y)))


add = _binary(lambda b, kind, x, y: b.fadd(x, y, flags=FLAGS))
sub = _binary(lambda b, kind, x, y: b.fsub(x, y, flags=FLAGS))
mul = _binary(lambda b, kind, x, y: b.fmul(x, y, flags=FLAGS))
madd = intrinsic(lambda context, x, y, z: _operation(lambda b, kind, *xyz: fused(b, *xyz), (x, y, z)))
"""x · y + z."""
maximum = _binary(lambda b, kind, x, y: _maximum(b, x, y))
"""The larger ones; where ``y`` is not a number, neither is the result."""
exp2, sigmoid, softplus = _unary(_exp2), _unary(_sigmoid), _unary(_softplus)


def _by_halves(operation):
    """What ``operation`` makes of all numbers of a vector, by halves."""

    def fold(typing, vector):
        def codegen(context, b, signature, values):
            value, lanes = values[0], vector.lanes
            while lanes % 2 == 0:
                lanes //= 2
                halves = (ir.Constant(ir.VectorType(INT32, lanes), list(range(n, n + lanes))) for n in (0, lanes))
                value = operation(b, *(b.shuffle_vector(value, value, half) for half in halves))
            return reduce(partial(operation, b), (b.extract_element(value, INT32(n)) for n in range(lanes)))

        return vector.dtype(vector), codegen

    return intrinsic(fold)


total = _by_halves(lambda b, x, y: b.fadd(x, y))
largest = _by_halves(lambda b, x, y: _maximum(b, x, y))
