"""The CUDA kernel of mamba_ssm beside the selective scan in Triton: built by nvcc, called through ctypes.

    pip download --no-deps --no-build-isolation --no-binary :all: mamba-ssm==2.3.2.post1 && tar xf mamba_ssm-*.tar.gz
    PYTHONPATH=kernels python kernels/benchmarks/gpu_mamba.py mamba_ssm-*/csrc/selective_scan [JSON]

Times its kernel alone, in its own layout (channels first, lengths that 2,048 divides), and ours channels last.
"""

import ctypes
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from gpu_scan import DIM, STATES, draw, milliseconds, say
from torch import Tensor

from xt_kernels.selective_scan import triton_impl

Run = Callable[[], None]
# All switches of its host code are true here: B and C vary, softplus, gate, whole blocks of tokens.
STUBS = {
    "static_switch.h": "#pragma once\n#define BOOL_SWITCH(COND, NAME, ...) "
    "[&] { constexpr bool NAME = true; return __VA_ARGS__(); }()\n",
    "c10/cuda/CUDAException.h": "#pragma once\n#define C10_CUDA_CHECK(x) (x)\n#define C10_CUDA_KERNEL_LAUNCH_CHECK()\n",
    "ATen/cuda/Atomic.cuh": "#pragma once\nstatic __device__ float gpuAtomicAdd(float *p, float v) "
    "{ return atomicAdd(p, v); }\n",
}
SOURCE = """
#include "selective_scan_fwd_kernel.cuh"
#include "selective_scan_bwd_kernel.cuh"
static void fill(SSMParamsBase &p, const int *s, void **q) {
    p.batch = s[0]; p.dim = p.dim_ngroups_ratio = s[1]; p.seqlen = s[2]; p.dstate = s[3]; p.n_groups = 1;
    p.n_chunks = (s[2] + 2047) / 2048;
    p.is_variable_B = p.is_variable_C = p.delta_softplus = true;
    uint64_t D = s[1], L = s[2], N = s[3];
    p.A_d_stride = N; p.A_dstate_stride = 1;
    p.B_batch_stride = p.C_batch_stride = p.B_group_stride = p.C_group_stride = N * L;
    p.B_dstate_stride = p.C_dstate_stride = L;
    p.u_batch_stride = p.delta_batch_stride = p.z_batch_stride = p.out_batch_stride = p.out_z_batch_stride = D * L;
    p.u_d_stride = p.delta_d_stride = p.z_d_stride = p.out_d_stride = p.out_z_d_stride = L;
    p.u_ptr = q[0]; p.delta_ptr = q[1]; p.A_ptr = q[2]; p.B_ptr = q[3]; p.C_ptr = q[4]; p.D_ptr = q[5];
    p.z_ptr = q[6]; p.delta_bias_ptr = q[7]; p.out_ptr = q[8]; p.x_ptr = q[9]; p.out_z_ptr = q[10];
}
template <typename T> static int forward(const int *s, void **q, cudaStream_t stream) {
    SSMParamsBase p = {};
    fill(p, s, q);
    selective_scan_fwd_launch<128, 16, T, float>(p, stream);
    return cudaGetLastError();
}
template <typename T> static int backward(const int *s, void **q, cudaStream_t stream) {
    SSMParamsBwd p = {};
    fill(p, s, q);
    p.out_z_ptr = nullptr;
    uint64_t D = s[1], L = s[2], N = s[3];
    p.dout_ptr = q[11]; p.du_ptr = q[12]; p.ddelta_ptr = q[13]; p.dz_ptr = q[14]; p.dA_ptr = q[15]; p.dB_ptr = q[16];
    p.dC_ptr = q[17]; p.dD_ptr = q[18]; p.ddelta_bias_ptr = q[19];
    p.dout_batch_stride = p.du_batch_stride = p.ddelta_batch_stride = p.dz_batch_stride = D * L;
    p.dout_d_stride = p.du_d_stride = p.ddelta_d_stride = p.dz_d_stride = L;
    p.dA_d_stride = N; p.dA_dstate_stride = 1;
    p.dB_batch_stride = p.dC_batch_stride = p.dB_group_stride = p.dC_group_stride = N * L;
    p.dB_dstate_stride = p.dC_dstate_stride = L;
    selective_scan_bwd_launch<128, 16, T, float>(p, stream);
    return cudaGetLastError();
}
extern "C" {
int forward_float32(const int *s, void **q, cudaStream_t t) { return forward<float>(s, q, t); }
int forward_bfloat16(const int *s, void **q, cudaStream_t t) { return forward<at::BFloat16>(s, q, t); }
int backward_float32(const int *s, void **q, cudaStream_t t) { return backward<float>(s, q, t); }
int backward_bfloat16(const int *s, void **q, cudaStream_t t) { return backward<at::BFloat16>(s, q, t); }
}
"""


def build(sources: Path, folder: Path) -> Path:
    """Compile its kernels for fp32 and bf16, real weights, as a library without Python."""
    for header in sources.glob("*h"):
        shutil.copy(header, folder)
    for name, text in (STUBS | {"peer.cu": SOURCE}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    include = Path(torch.__file__).parent / "include"
    flags = "-O3 -std=c++17 -arch=sm_90 --expt-relaxed-constexpr --expt-extended-lambda --use_fast_math -shared".split()
    flags += ["-U__CUDA_NO_HALF_OPERATORS__", "-U__CUDA_NO_BFLOAT16_OPERATORS__", "-Xcompiler", "-fPIC"]
    subprocess.run(["nvcc", *flags, "-I.", f"-I{include}", "-o", "peer.so", "peer.cu"], cwd=folder, check=True)
    return folder / "peer.so"


def peer(library: ctypes.CDLL, tensors: list[Tensor], dy: Tensor) -> tuple[Run, Run, Tensor]:
    """Its forward, its backward, and where the first writes y ``(1, D, L)``."""
    u, delta, A, B, C, D, z, bias = tensors
    length = u.shape[1]
    u, delta, z, dy = (x.transpose(1, 2).contiguous() for x in (u, delta, z, dy))
    B, C = (x[:, :, 0].transpose(1, 2).contiguous() for x in (B, C))
    out, y, du, ddelta, dz = (torch.empty_like(u) for _ in range(5))
    states = torch.empty(DIM * -(-length // 2048) * 2 * STATES, device="cuda")
    sums = [torch.zeros(x.shape, device="cuda") for x in (A, B, C, D, bias)]
    used = [u, delta, A, B, C, D, z, bias, out, states, y, dy, du, ddelta, dz, *sums]
    pointers = (ctypes.c_void_p * len(used))(*[x.data_ptr() for x in used])
    sizes = (ctypes.c_int * 4)(1, DIM, length, STATES)
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    dtype = str(u.dtype).removeprefix("torch.")

    def forward() -> None:
        assert getattr(library, f"forward_{dtype}")(sizes, pointers, stream) == 0, used[0].shape

    def backward() -> None:
        for x in sums:  # it adds to them
            x.zero_()
        assert getattr(library, f"backward_{dtype}")(sizes, pointers, stream) == 0, used[0].shape

    return forward, backward, y


def main() -> None:
    facts: dict[str, object] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    with tempfile.TemporaryDirectory() as folder:
        library = ctypes.CDLL(str(build(Path(sys.argv[1]), Path(folder))))
        for length in (131072, 16384, 4096):
            for dtype in (torch.float32, torch.bfloat16):
                tensors = [x.contiguous() for x in draw(length, dtype, False)]
                dy, dend = torch.randn_like(tensors[0]), torch.zeros(1, DIM, STATES, device="cuda")
                given = (*tensors, True)
                y, _, kept = triton_impl.forward(*given, None, False, True)
                forward, backward, found = peer(library, tensors, dy)
                forward()
                error = float((found.transpose(1, 2).float() - y.float()).norm() / y.float().norm())
                row = {
                    "forward": milliseconds(lambda: triton_impl.forward(*given, None, False, False)),  # noqa: B023
                    "backward": milliseconds(lambda: triton_impl.backward(dy, dend, *given, False, kept)),  # noqa: B023
                    "mamba_ssm forward": milliseconds(forward),
                    "mamba_ssm backward": milliseconds(backward),
                    "relative difference of y": error,
                }
                say(length, dtype, row)
                facts[f"{length} {dtype}"] = row
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
