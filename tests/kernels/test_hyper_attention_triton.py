"""Triton's HyperAttention without a GPU: under the interpreter, and compiled for GPUs of three generations."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from triton_compile import Launch, needs_interpreter, recorded

from xt_kernels.hyper_attention import hyper_attention, interface, triton_impl
from xt_kernels.hyper_attention.plan import Options

HERE = Path(__file__).parent


@needs_interpreter
def test_under_the_interpreter():
    # Triton decides at import whether to interpret.
    command = [sys.executable, "-m", "pytest", "-q", HERE / "interpreted_hyper_attention.py", "-p", "no:cacheprovider"]
    told = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout[-3000:]


def launches(dtype: torch.dtype, capability: int, length: int = 600, causal: bool = True) -> list[Launch]:
    options = Options(causal, 64, 48, 7, 256, 0.1, 0, False)
    q, k, v = (x.view(1, length, 2, 128).transpose(1, 2) for x in torch.zeros(1, length, 768, dtype=dtype).chunk(3, -1))
    configs = triton_impl.configs_for(dtype, capability // 10)
    with recorded() as found:
        order = triton_impl.sort(q, k, options)
        out, lse = triton_impl.attend(q, k, v, order, options, configs)
        triton_impl.backward(q, q, k, v, out, lse, order, options, configs)
    return found


@pytest.mark.parametrize(
    ("dtype", "capability"), [(torch.bfloat16, 80), (torch.bfloat16, 90), (torch.bfloat16, 100), (torch.float32, 90)]
)
def test_compiles_without_spilling_registers(dtype: torch.dtype, capability: int):
    seen = set()
    for launch in launches(dtype, capability):
        compiled = launch.compile(capability)
        if compiled.cubin not in seen:
            seen.add(compiled.cubin)
            # Triton 3.9 has up to six words of one kernel more than 255 registers hold.
            assert compiled.resources()["STACK"] <= 24, (compiled.name, compiled.resources())
            assert compiled.shared <= 99 * 1024 or capability > 80, compiled.name
            assert f".target sm_{capability}" in compiled.ptx
    assert len(seen) >= 8  # hash, forward, query, key with and without a causal mask, sample


def test_no_length_compiles_anew():
    def compiled_for(length: int) -> set[str]:
        return {launch.source().hash() for launch in launches(torch.bfloat16, 90, length)}

    assert compiled_for(1024) == compiled_for(1111)


def test_what_it_refuses_is_said():
    x = torch.zeros(1, 1, 8, 256)
    with pytest.raises(ValueError, match=r"backend 'triton' .* runs on cuda, and the tensors are on cpu"):
        hyper_attention(x, x, x, backend="triton")
    options = Options(False, 64, 48, 7, 256, 0.1, 0, False)
    assert "128 channels at most, not 256" in str(interface._triton_refuses(x, x, x, options))
    assert "not torch.float64" in str(interface._triton_refuses(*3 * [x.double()], options))
    assert "65535 sequences at most" in str(interface._triton_refuses(*3 * [torch.zeros(1 << 16, 1, 1, 8)], options))
    assert interface._triton_refuses(*3 * [x[..., :128]], options) is None
