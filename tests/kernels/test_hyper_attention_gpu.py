"""Triton's HyperAttention on a GPU."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hyper_cases import CASES, Case, check

from xt_kernels.hyper_attention import hyper_attention, triton_impl

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forward_and_gradients(case: Case, dtype: torch.dtype):
    check(replace(case, dtype=dtype), "cuda")


@pytest.mark.parametrize("causal", [False, True])
def test_sizes_of_models(causal: bool):
    sizes = {"block_size": 256, "sample_size": 256, "min_seq_len": 4096, "dim": 128, "joint": True}
    check(Case(9001, causal=causal, dtype=torch.bfloat16, **sizes), "cuda")


def test_right_as_the_first_launch_of_a_process():
    code = "import torch; from hyper_cases import *; check(Case(1025, dim=128, dtype=torch.bfloat16), 'cuda')"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, env=environment, check=True)


def test_no_length_compiles_anew():
    def run(length: int) -> None:
        q, k, v = (torch.randn(1, 2, length, 64, device="cuda", requires_grad=True) for _ in range(3))
        hyper_attention(q, k, v, min_seq_len=64, block_size=32, sample_size=32).sum().backward()

    def compiled() -> int:
        return sum(len(cache[0]) for cache in triton_impl._forward_kernel.device_caches.values())

    run(1024)
    before = compiled()
    for length in (1025, 1111, 4096):
        run(length)
    assert compiled() == before


def test_addresses_beyond_32_bits():
    # 2^31 elements in one tensor: the last head begins beyond.
    x = torch.zeros(1, 20, 1 << 20, 128, device="cuda", dtype=torch.bfloat16)
    x[:, -1].normal_()
    with torch.no_grad():
        whole = hyper_attention(x, x, x)[:, -1:]
        alone = hyper_attention(*3 * [x[:, -1:].contiguous()])
    torch.testing.assert_close(whole, alone)
