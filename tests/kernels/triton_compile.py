"""Compile Triton kernels for GPUs that are not there, from the launches that their host code would do."""

import inspect
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import JITFunction, interpreter

_TYPES = {
    torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.uint8: "*u8", torch.int32: "*i32",
    torch.int64: "*i64",
}  # fmt: skip

_TAKES_ARRAYS = (
    "int(self.handle.data)" in inspect.getsource(interpreter) and np.lib.NumpyVersion(np.__version__) >= "2.4.0"
)
needs_interpreter = pytest.mark.skipif(
    _TAKES_ARRAYS, reason=f"the interpreter of Triton {triton.__version__} takes arrays for numbers, NumPy refuses"
)


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel: its arguments by name and its options."""

    kernel: JITFunction
    arguments: dict[str, Any]
    options: dict[str, int]

    def source(self) -> ASTSource:
        constant = {p.name for p in self.kernel.params if p.is_constexpr}
        signature, attributes = {}, {}
        for place, parameter in enumerate(self.kernel.params):
            value = self.arguments[parameter.name]
            if parameter.name in constant:
                signature[parameter.name] = "constexpr"
            elif isinstance(value, torch.Tensor):
                signature[parameter.name] = _TYPES[value.dtype]
                attributes[(place,)] = [["tt.divisibility", 16]]
            elif isinstance(value, float):
                signature[parameter.name] = "fp32"
            else:
                signature[parameter.name] = "i32" if abs(value) < 2**31 else "i64"
                if value % 16 == 0 and not parameter.do_not_specialize:
                    attributes[(place,)] = [["tt.divisibility", 16]]
        constants = {(place,): self.arguments[p.name] for place, p in enumerate(self.kernel.params) if p.is_constexpr}
        return ASTSource(self.kernel, signature, constants, attributes)

    def compile(self, capability: int) -> "Compiled":
        compiled = triton.compile(self.source(), GPUTarget("cuda", capability, 32), options=self.options)
        return Compiled(self.kernel.__name__, compiled.asm["ptx"], compiled.asm["cubin"], compiled.metadata.shared)


@dataclass(frozen=True)
class Compiled:
    name: str
    ptx: str
    cubin: bytes
    shared: int

    def resources(self) -> dict[str, int]:
        """Registers of a thread (``REG``) and bytes that it spills (``STACK``), among others."""
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self.cubin)
            file.flush()
            told = subprocess.run(
                [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
            )
        return {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", told.stdout)}


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Note launches instead of doing them; results of kernels stay what they were."""
    launches: list[Launch] = []

    def run(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        names = [p.name for p in self.params]
        options = {name: kwargs.pop(name) for name in ("num_warps", "num_stages") if name in kwargs}
        arguments = dict(zip(names, args, strict=False)) | kwargs
        assert sorted(arguments) == sorted(names), (self.__name__, set(names) ^ set(arguments))
        launches.append(Launch(self, arguments, options))

    before = JITFunction.run
    JITFunction.run = run
    try:
        yield launches
    finally:
        JITFunction.run = before
