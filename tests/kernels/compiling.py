"""Compiles Triton kernels for GPUs that are not here, and reads what the assembler says of them."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CAPABILITIES = (80, 90, 100)
"""A100, H100 and H200, B200."""


def spilled_bytes(
    kernel: Any,
    types: Mapping[str, str],
    constants: Mapping[str, Any],
    capability: int,
    folder: Path,
    num_warps: int = 4,
    num_stages: int = 3,
) -> int:
    """Compile a kernel to PTX and assemble it; return bytes of registers that did not fit.

    Args:
        kernel: Function under ``triton.jit``.
        types: Name of an argument → type, such as ``*bf16`` or ``i32``.
        constants: Values of those that are ``tl.constexpr``.
        capability: Such as 90.
        folder: For the assembler's files.
        num_warps: Of a program.
        num_stages: Of pipelined loops.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.compiler import get_ptxas
    from triton.compiler import ASTSource

    signature = {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names}
    compiled = triton.compile(
        ASTSource(kernel, signature, constexprs=dict(constants)),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": num_warps, "num_stages": num_stages},
    )
    assert compiled.asm["cubin"]
    (folder / "k.ptx").write_text(compiled.asm["ptx"])
    architecture = f"sm_{capability}{'a' if capability >= 90 else ''}"
    command = [get_ptxas(capability).path, "-v", f"--gpu-name={architecture}", "k.ptx", "-o", "k.o"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    (spilled,) = re.findall(r"(\d+) bytes spill stores", done.stderr)
    return int(spilled)
