"""The selective scan beside its peers, as a Mamba layer of 768 channels calls it.

Peers: the published Python reference of ``mamba_ssm`` (its algorithm, written here), a well-written step loop,
a C++ loop in the manner of llama.cpp where a compiler is, ``mambapy`` and the kernel of ``mamba_ssm`` where installed.
"""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xt.analysis.bench.peers import Function, Inputs, Op, Peer
from xt_kernels.selective_scan import selective_scan_channels_last

DIM, STATES = 1536, 16
CODE = r"""
#include <cmath>
extern "C" void scan(int length, int dim, int states, const float *u, const float *delta, const float *A,
                     const float *B, const float *C, const float *D, const float *z, const float *bias,
                     float *h, float *y) {
  for (int t = 0; t < length; t++)
    for (int d = 0; d < dim; d++) {
      float x = delta[t * dim + d] + bias[d], step = x <= 20.0f ? log1pf(expf(x)) : x;
      float in = step * u[t * dim + d], sum = 0;
      for (int n = 0; n < states; n++) {
        float state = h[d * states + n] * expf(step * A[d * states + n]) + B[t * states + n] * in;
        sum += state * C[t * states + n];
        h[d * states + n] = state;
      }
      float gate = z[t * dim + d];
      y[t * dim + d] = (sum + D[d] * u[t * dim + d]) * gate / (1.0f + expf(-gate));
    }
}
"""


def draw(length: int, dtype: torch.dtype, device: str, dim: int = DIM, states: int = STATES) -> Inputs:
    """Draw ``u, delta, A, B, C, D, z, delta_bias``, tokens second."""
    g = torch.Generator().manual_seed(0)
    u, delta, z = (torch.randn(1, length, dim, generator=g) for _ in range(3))
    B, C = (torch.randn(1, length, states, generator=g) for _ in range(2))
    A = -torch.arange(1.0, states + 1).repeat(dim, 1)
    tensors = (u, delta, A, B, C, torch.ones(dim), z, torch.full((dim,), -3.0))
    return tuple(each.to(device, dtype) for each in tensors)


def small(dtype: torch.dtype, device: str) -> Inputs:
    """Some tokens of some channels."""
    return draw(67, dtype, device, 48)


def package(backend: str) -> Function:
    """The package's op."""
    return functools.partial(_package, backend)


def _package(backend: str, *inputs: Tensor) -> Tensor:
    u, delta, A, B, C, D, z, bias = inputs
    y: Tensor = selective_scan_channels_last(u, delta, A, B, C, D, z, bias, True, backend=backend)
    return y


def published(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor) -> Tensor:
    """``selective_scan_ref`` of mamba_ssm: all factors at once, then a loop over tokens."""
    u, delta, B, C, z = (x.transpose(1, 2) for x in (u, delta, B, C, z))
    delta = F.softplus(delta + bias[:, None])
    decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    inputs = torch.einsum("bdl,bnl,bdl->bdln", delta, B, u)
    state = A.new_zeros(u.shape[0], *A.shape)
    ys = []
    for t in range(u.shape[2]):
        state = decay[:, :, t] * state + inputs[:, :, t]
        ys.append(torch.einsum("bdn,bn->bd", state, C[:, :, t]))
    return ((torch.stack(ys, dim=2) + u * D[:, None]) * F.silu(z)).transpose(1, 2)


@torch.no_grad()
def step_loop(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor) -> Tensor:
    """Token by token in place, states first so that channels are contiguous."""
    step = F.softplus(delta + bias)[0]
    inputs, rates = step * u[0], A.T.contiguous()
    state, decay, y = torch.zeros_like(rates), torch.empty_like(rates), torch.empty_like(u[0])
    for t in range(len(step)):
        torch.mul(rates, step[t], out=decay).exp_()
        state.mul_(decay).addcmul_(B[0, t, :, None], inputs[t])
        torch.mv(state.T, C[0, t], out=y[t])
    return (y.addcmul_(D, u[0]) * F.silu(z[0]))[None]


def mambapy() -> Function | None:
    """The parallel scan of mambapy, if it is installed."""
    try:
        from mambapy.pscan import pscan  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError:
        return None

    def run(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor) -> Tensor:
        delta = F.softplus(delta + bias)
        decay = torch.exp(delta.unsqueeze(-1) * A)
        states = pscan(decay, delta.unsqueeze(-1) * B.unsqueeze(2) * u.unsqueeze(-1))
        y: Tensor = ((states @ C.unsqueeze(-1)).squeeze(3) + D * u) * F.silu(z)
        return y

    return run


def mamba_ssm() -> Function | None:
    """The CUDA kernel of mamba_ssm, if it is installed."""
    try:
        from mamba_ssm.ops.selective_scan_interface import (  # type: ignore[import-not-found, unused-ignore]
            selective_scan_fn,
        )
    except ImportError:
        return None

    def run(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor) -> Tensor:
        u, delta, B, C, z = (x.transpose(1, 2) for x in (u, delta, B, C, z))
        y: Tensor = selective_scan_fn(u, delta, A.float(), B, C, D.float(), z, bias.float(), delta_softplus=True)
        return y.transpose(1, 2)

    return run


def cpp_loop(*tensors: Tensor) -> Tensor:
    """A loop over channels and states, compiled."""
    u, delta, A, B, C, D, z, bias = (each.detach().numpy() for each in tensors)
    y, h = np.empty_like(u), np.zeros(A.shape, np.float32)
    pointers = [each.ctypes.data_as(ctypes.c_void_p) for each in (u, delta, A, B, C, D, z, bias, h, y)]
    _compiled()(u.shape[1], u.shape[2], A.shape[1], *pointers)
    return torch.from_numpy(y)


def _compiler() -> str | None:
    return shutil.which("g++") or shutil.which("clang++")


@functools.cache
def _compiled() -> Any:
    compiler = _compiler()
    assert compiler is not None
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "scan.cpp").write_text(CODE)
        command = [compiler, "-O3", "-march=native", "-shared", "-fPIC", "scan.cpp", "-o", "scan.so"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return ctypes.CDLL(str(folder / "scan.so")).scan
    finally:
        shutil.rmtree(folder)


def peers(device: str) -> dict[str, Peer]:
    """Name what is compared on a device."""
    oracle = package("reference")
    found = {name: Peer(package(name), True, oracle) for name in (("triton",) if device == "cuda" else ("numba",))}
    found["chunked"] = Peer(package("chunked"), True, oracle)
    # Autograd takes the square of the tokens to go back through a loop over slices.
    found["reference"] = Peer(oracle, True, backward=False)
    found["published"] = Peer(published, oracle=oracle, backward=False)
    optional = {"mambapy": mambapy(), "mamba_ssm": mamba_ssm() if device == "cuda" else None}
    found |= {name: Peer(run, oracle=oracle) for name, run in optional.items() if run is not None}
    found["step_loop"] = Peer(step_loop, oracle=oracle, backward=False)
    if device == "cpu" and _compiler():
        found["cpp_loop"] = Peer(cpp_loop, oracle=oracle, backward=False, single=True)
    return found


def work(peer: str, tokens: int, itemsize: int, backward: bool) -> float:
    """Bytes if each array is read and written once: u, delta, z, y, B and C; backward their gradients too."""
    forward = 4 * DIM + 2 * STATES
    return float(itemsize * tokens * (forward + 7 * DIM + 4 * STATES if backward else forward))


OP = Op(f"1 × tokens × {DIM} channels, {STATES} states, softplus and gate inside", "memory", draw, small, peers, work)
