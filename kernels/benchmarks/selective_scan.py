"""The selective scan beside its peers on a CPU: from ``kernels``, ``python -m benchmarks.selective_scan``.

Peers: the published Python reference of ``mamba_ssm`` (its algorithm, written here), a well-written step loop,
``mambapy`` where it is installed, a C++ loop in the manner of llama.cpp where a compiler is, and the package's own.
"""

import argparse
import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import grown_mebibytes, report, slope, taking_turns
from xt_kernels.selective_scan import selective_scan_channels_last

Inputs = tuple[Tensor, ...]
"""``u, delta, A, B, C, D, z, delta_bias``, tokens second."""

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


def draw(length: int, dim: int = 1536, states: int = 16, grad: bool = False) -> Inputs:
    """Inputs as a Mamba layer has them."""
    g = torch.Generator().manual_seed(0)
    u, delta, z = (torch.randn(1, length, dim, generator=g) for _ in range(3))
    B, C = (torch.randn(1, length, states, generator=g) for _ in range(2))
    A = -torch.arange(1.0, states + 1).repeat(dim, 1)
    tensors = (u, delta, A, B, C, torch.ones(dim), z, torch.full((dim,), -3.0))
    return tuple(each.requires_grad_(grad) for each in tensors)


def package(backend: str) -> Callable[..., Tensor]:
    """The package's op."""
    return lambda *t: selective_scan_channels_last(*t, delta_softplus=True, backend=backend)


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


def mambapy() -> Callable[..., Tensor] | None:
    """The parallel scan of mambapy, if it is installed."""
    try:
        from mambapy.pscan import pscan
    except ImportError:
        return None

    def run(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor) -> Tensor:
        delta = F.softplus(delta + bias)
        decay = torch.exp(delta.unsqueeze(-1) * A)
        states = pscan(decay, delta.unsqueeze(-1) * B.unsqueeze(2) * u.unsqueeze(-1))
        return ((states @ C.unsqueeze(-1)).squeeze(3) + D * u) * F.silu(z)

    return run


def cpp_loop() -> Callable[..., Tensor] | None:
    """A loop over channels and states, compiled, if there is a compiler."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return None
    folder = Path(tempfile.mkdtemp())
    (folder / "scan.cpp").write_text(CODE)
    command = [compiler, "-O3", "-march=native", "-shared", "-fPIC", "scan.cpp", "-o", "scan.so"]
    subprocess.run(command, cwd=folder, check=True)
    scan = ctypes.CDLL(str(folder / "scan.so")).scan
    shutil.rmtree(folder)

    def run(*tensors: Tensor) -> Tensor:
        u, delta, A, B, C, D, z, bias = (each.detach().numpy() for each in tensors)
        y, h = np.empty_like(u), np.zeros(A.shape, np.float32)
        pointers = [each.ctypes.data_as(ctypes.c_void_p) for each in (u, delta, A, B, C, D, z, bias, h, y)]
        scan(u.shape[1], u.shape[2], A.shape[1], *pointers)
        return torch.from_numpy(y)

    return run


def check() -> None:
    """Refuse to measure what is wrong: every peer against the oracle in fp64, on a short sequence.

    Raises:
        AssertionError: If one is.
    """
    inputs = draw(67, 48)
    want = package("reference")(*(each.double() for each in inputs))
    peers = {"numba": package("numba"), "chunked": package("chunked"), "published": published, "loop": step_loop}
    for name, run in {**peers, "mambapy": mambapy(), "C++": cpp_loop()}.items():
        error = 0.0 if run is None else float((run(*inputs).double() - want).norm() / want.norm())
        assert error < 1e-5, f"{name} is wrong: relative error {error}"


def both_ways(run: Callable[..., Tensor], inputs: Inputs) -> Callable[[], object]:
    """Forward and backward."""
    return lambda: torch.autograd.grad(run(*inputs).sum(), inputs)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lengths", type=int, nargs="*", default=[], help="for the slope of the package's own")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    check()
    numba = package("numba")
    memory = grown_mebibytes(both_ways(numba, draw(args.length, grad=True)))  # before anything large
    inputs = draw(args.length)
    peers = {"numba": numba, "published": published, "loop": step_loop, "C++": cpp_loop(), "mambapy": mambapy()}
    with torch.no_grad():
        runs = {name: (lambda run=run: run(*inputs)) for name, run in peers.items() if run is not None}
        forward = taking_turns(runs, args.rounds)
    inputs = draw(args.length, grad=True)
    both = {name: both_ways(peers[name], inputs) for name in ("numba", "mambapy") if peers[name] is not None}
    training = taking_turns(both, args.rounds)
    lengths = {}
    for length in args.lengths:
        more = draw(length, grad=True)
        seconds = taking_turns({"both": both_ways(numba, more)}, args.rounds)["both"]
        lengths[length] = {"us_per_token": seconds / length * 1e6}
    results = {
        "length": args.length,
        "forward_ms": {name: 1e3 * value for name, value in forward.items()},
        "forward_over_ours": {name: value / forward["numba"] for name, value in forward.items()},
        "both_ms": {name: 1e3 * value for name, value in training.items()},
        "both_over_ours": {name: value / training["numba"] for name, value in training.items()},
        "both_MiB": memory,
        "both_by_length": lengths,
    }
    if len(lengths) > 1:
        times = [length * each["us_per_token"] for length, each in lengths.items()]
        results["slope"] = slope(list(lengths), times)
    report(results, args.out)


if __name__ == "__main__":
    main()
